# `make demo` and `make test` do everything on a fresh machine with Python 3.11 and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c .ci/constraints.txt
DEMO   := build/demo

.PHONY: demo test test-fast lint matrix fixtures clean

demo: $(VENV)/base ## install the base package, convert and verify a fixture
	@rm -rf $(DEMO) && mkdir -p $(DEMO)
	$(BIN)/xconvert inspect fixtures/keras.h5
	$(BIN)/xconvert fixtures/keras.h5 --to torch -o $(DEMO)/keras.pth
	$(BIN)/xconvert verify fixtures/keras.h5 $(DEMO)/keras.pth

test: $(VENV)/frameworks lint ## install the frameworks, run the whole suite
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

test-fast: $(VENV)/test ## the tests that need no framework
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not framework"

lint: $(VENV)/test ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

matrix: $(VENV)/frameworks ## measure the README's table of what becomes what
	$(BIN)/python -m tests.frameworks.matrix

fixtures: $(VENV)/frameworks ## write fixtures/ again with the real frameworks
	$(BIN)/python -m tests.frameworks.fixtures

$(VENV)/base: pyproject.toml .ci/constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	@touch $@

$(VENV)/test: $(VENV)/base
	$(PIP) -e '.[test]'
	@touch $@

# timm, keras-hub, pretrainedmodels and tf_keras ask for packages that have no build for the CPU alone (torchvision's kernels, tensorflow): what
# they really import is named here, and they come without their dependencies.
$(VENV)/frameworks: $(VENV)/test
	$(PIP) torch
	$(PIP) tensorflow-cpu keras regex tokenizers kagglehub huggingface_hub pyyaml pillow munch tqdm
	$(PIP) --no-deps timm torchvision keras-hub pretrainedmodels tf_keras
	@touch $@

clean:
	rm -rf $(VENV) build dist
