"""PaddleClas' own classes, from ``ppcls/arch/backbone/model_zoo``: the two files alone, because importing ``ppcls`` needs more
than they do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from xconvert.backends import Backend, Job
from xconvert.backends._class import import_file, refuse_widths, visible
from xconvert.backends.paddle import as_array, as_tensor, load, step
from xconvert.model import Array

FILES = ("xception.py", "xception_deeplab.py")


def run(job: Job) -> dict[str, Array]:
    """Activations of ``job.taps``, as far as sublayers show them, and of the last layer.

    Raises ``ValueError`` when PaddleClas publishes no network of this depth, and when the checkpoint has other widths than the
    class, whose classes alone are free.
    """
    network = _loaded(job)
    if job.dtype == "float64":
        correct_epsilon(network)
    return _activations(network, job)


def train(job: Job) -> dict[str, Array]:
    """One step of training, but for dropout, which stays as in inference because its masks are random. Raises as ``run`` does."""
    from paddle import nn

    network = _loaded(job)
    network.train()
    network.to(dtype=job.dtype)
    for sublayer in network.sublayers():
        if isinstance(sublayer, nn.Dropout):
            sublayer.eval()
    if job.layers[-1].op == "linear":
        return step(network, network, job.names, job)
    last: list[Any] = []
    _before_pooling(network).register_forward_pre_hook(lambda layer, inputs: last.append(inputs[0]))
    return step(network, lambda images: (network(images), last[-1])[1], job.names, job)


def _before_pooling(network: Any) -> Any:
    """The sublayer that takes the last map: the dropout, or in the class without one the pool."""
    sublayers = dict(network.named_sublayers())
    return sublayers.get("_drop") or sublayers["_exit_flow._pool"]


def _loaded(job: Job) -> Any:
    """The class with the weights of the job's file."""
    if not job.published:
        raise ValueError("PaddleClas publishes no network of this depth")
    head = job.weights.get("predictions.weight")
    network = create(job.published, 1 if head is None else head.shape[1])
    if head is None:
        cut(network)
    title = f"PaddleClas' {job.published}"
    refuse_widths(job, title, dict(network.named_sublayers()), inputs_first=True)
    if job.path is None:
        raise ValueError(f"{title} wants a file to load")
    load(network, job.path)
    return network


def create(name: str, classes: int) -> Any:
    """The class ``name``, such as ``Xception41`` or ``Xception41_deeplab``, without trained weights, for inference.

    Raises ``ModuleNotFoundError`` when the package is not installed, ``ValueError`` when it has no such class.
    """
    import paddle

    for file in FILES:
        module = import_zoo(file)
        if name in module.__all__:
            with paddle.utils.unique_name.guard():  # its parameters have fixed names, which a second network would share
                network = getattr(module, name)(class_num=classes)
            network.eval()
            return network
    raise ValueError(f"PaddleClas has no {name}")


def import_zoo(file: str) -> Any:
    """One of ``FILES`` as a module, with a stand-in for the only thing of ppcls it imports, which downloads weights."""
    return import_file(
        "paddleclas", f"ppcls/arch/backbone/model_zoo/{file}", ppcls__utils__save_load={"load_dygraph_pretrain": None}
    )


def cut(network: Any) -> None:
    """Take the classifier away, so that a headless file fits without remainder; what it took passes through instead."""
    from paddle import nn

    where, name = (network, "_fc") if hasattr(network, "_fc") else (network._exit_flow, "_out")
    setattr(where, name, nn.Identity())


def correct_epsilon(network: Any) -> None:
    """Make up in the variances, as float64, for epsilons that Paddle holds in float32: 1e-3 is 5e-8 away there, in relative
    terms, whatever the dtype of the map.
    """
    from paddle import nn

    network.to(dtype="float64")
    for layer in network.sublayers():
        if isinstance(layer, nn.BatchNorm):
            layer._variance.set_value(layer._variance + (layer._epsilon - float(np.float32(layer._epsilon))))


def _activations(network: Any, job: Job) -> dict[str, Array]:
    import paddle

    network.eval()
    network.to(dtype=job.dtype)
    seen: dict[str, Array] = {}
    sublayers = dict(network.named_sublayers())
    for name, path in visible(job, sublayers, lambda layer: getattr(layer, "_act", None) is not None).items():
        sublayers[path].register_forward_post_hook(_keep(seen, name))
    last = job.layers[-1].name
    headless = job.layers[-1].op != "linear"
    if headless:
        _before_pooling(network).register_forward_pre_hook(lambda layer, inputs: seen.update({last: as_array(inputs[0])}))
    with paddle.no_grad():
        output = network(as_tensor(job))
    return seen if headless else {**seen, last: as_array(output)}


def _keep(seen: dict[str, Array], name: str) -> Callable[[Any, Any, Any], None]:
    def hook(layer: Any, inputs: Any, output: Any) -> None:
        seen[name] = as_array(output)  # Paddle 3.3 calls it twice, with the same

    return hook


BACKEND = Backend(
    "paddleclas",
    "PaddleClas' own class",
    requires=("paddle", "paddleclas"),
    kind="class",
    run=run,
    train=train,
    single=("epsilon", "momentum", "average"),
    kept="dropout, because its masks are random",
    opens=(".pdparams",),
)
