# `make demo` and `make test` do everything on a fresh machine with Python 3.11 and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c .ci/constraints.txt
DEMO   := build/demo
# MindSpore asks for NumPy below 2, so it has an environment of its own; xconvert finds its Python through these variables.
MS     := .venv-mindspore
MS_PIP := $(MS)/bin/python -m pip --disable-pip-version-check install --quiet -c .ci/constraints-mindspore.txt
test matrix loaders fixtures bench: export XCONVERT_PYTHON_MINDSPORE := $(CURDIR)/$(MS)/bin/python
test matrix fixtures: export XCONVERT_PYTHON_MINDCV := $(CURDIR)/$(MS)/bin/python

.PHONY: demo test test-fast lint matrix kills fuzz hostile loaders fixtures bench chromium clean

demo: $(VENV)/base ## install the base package, convert and verify a fixture
	@rm -rf $(DEMO) && mkdir -p $(DEMO)
	$(BIN)/xconvert inspect fixtures/keras.h5
	$(BIN)/xconvert fixtures/keras.h5 --to torch -o $(DEMO)/keras.pth
	$(BIN)/xconvert verify fixtures/keras.h5 $(DEMO)/keras.pth

test: chromium $(VENV)/frameworks $(MS)/ready lint ## install the frameworks, run the whole suite
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

test-fast: $(VENV)/test ## the tests that need neither a framework nor a browser
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --ignore=tests/frameworks -m "not framework and not browser and not slow"

lint: $(VENV)/test ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

matrix: $(VENV)/frameworks $(MS)/ready ## measure the README's parity tables again
	XCONVERT_MATRIX=write $(BIN)/python -m pytest -q tests/frameworks/test_matrix.py

kills: $(VENV)/test ## kill N=500 conversions into each format at random instants (SEED=0)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m tests.kills -n $(or $(N),500) --seed $(or $(SEED),0)

fuzz: $(VENV)/fuzz ## change valid files at random and read them: SECONDS=60 SEED=0 WORKERS=1 LEAST=0 TARGETS="torch npz"
	$(BIN)/python -m tests.fuzz $(TARGETS) --seconds $(or $(SECONDS),60) \
		--seed $(or $(SEED),0) --workers $(or $(WORKERS),1) --least $(or $(LEAST),0) --keep

hostile: $(VENV)/test ## write the attacks in fixtures/hostile again
	$(BIN)/python -m tests.attacks

loaders: $(VENV)/frameworks $(MS)/ready ## try the attacks on the frameworks' own loaders, write the table in SECURITY.md
	$(BIN)/python -m tests.frameworks.loaders

fixtures: $(VENV)/frameworks $(MS)/ready ## write fixtures/ again with the real frameworks
	$(BIN)/python -m tests.frameworks.fixtures

bench: $(VENV)/frameworks $(MS)/ready ## measure speed and memory: GROUPS="convert start" ONLY="h5 to" REPEAT=5 WAIT=0
	$(BIN)/python -m benchmarks $(GROUPS) --only '$(ONLY)' --repeat $(or $(REPEAT),5) --wait $(or $(WAIT),0) --json build/bench.json

$(VENV)/base: pyproject.toml .ci/constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	@touch $@

$(VENV)/test: $(VENV)/base
	$(PIP) -e '.[test]'
	@touch $@

# atheris has builds for Linux and some Pythons; where there is none, fuzzing does without.
$(VENV)/fuzz: $(VENV)/test
	-$(PIP) atheris
	@touch $@

# timm, keras-hub, pretrainedmodels and tf_keras ask for packages that have no build for the CPU alone (torchvision's kernels,
# tensorflow), PaddleClas for NumPy 1.24 and a dozen tools of training: what they really import is named here, and they come
# without their dependencies.
$(VENV)/frameworks: $(VENV)/test
	$(PIP) torch
	$(PIP) tensorflow-cpu keras paddlepaddle onnx onnxruntime \
		regex tokenizers kagglehub huggingface_hub pyyaml pillow munch tqdm opencv-python-headless
	$(PIP) -e '.[remote,dask]' 'moto[server]'
	$(PIP) --no-deps timm torchvision keras-hub pretrainedmodels tf_keras paddleclas
	@touch $@

$(MS)/ready: pyproject.toml .ci/constraints-mindspore.txt
	test -x $(MS)/bin/python || $(PYTHON) -m venv $(MS)
	$(MS_PIP) mindspore tqdm pyyaml -e .
	$(MS_PIP) --no-deps mindcv
	@touch $@

# Pages are tested in Debian's Chromium, driven by the driver that comes with it; nothing is downloaded from elsewhere.
SUDO := $(shell test "$$(id -u)" = 0 || command -v sudo)
APT  := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -qq
chromium:
	@{ command -v chromium && command -v chromedriver; } >/dev/null \
		|| { $(APT) update && $(APT) install -y --no-install-recommends chromium chromium-driver; } >/dev/null \
		|| { echo "make test needs Chromium and its driver: apt-get install chromium chromium-driver" >&2; exit 1; }

clean:
	rm -rf $(VENV) $(MS) build dist
