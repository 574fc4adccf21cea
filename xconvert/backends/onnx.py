"""ONNX Runtime runs our graph, from an ``.onnx`` file or from a model made in memory."""

from __future__ import annotations

import os

import numpy as np

from xconvert import onnx_graph
from xconvert.axes import rearrange
from xconvert.backends import Backend, Job, Serve
from xconvert.backends._graph import channels_first, channels_last
from xconvert.model import Array, Layer, Tensor


def run(job: Job) -> dict[str, Array]:
    """Activations of ``job.taps`` and of the last layer, in float32, by layer name; maps as (N, H, W, C).

    What is tapped is made an output of the model, whose file stays as it is and may store weights in any precision. Raises
    ``ValueError`` for computing in float64, for which ONNX Runtime has no convolution on the CPU (1.31: "Could not find an
    implementation for Conv(11)").
    """
    import onnxruntime

    if job.dtype == "float64":
        raise ValueError("ONNX Runtime computes no convolutions in float64 on the CPU")
    last, output = job.layers[-1].name, onnx_graph.output_name(job.layers)
    taps = [layer.name for layer in job.layers if layer.name in job.taps and layer.name != last]
    model = (job.path.read_bytes() if job.path else _made(job)) + onnx_graph.more_outputs(taps)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    images = channels_first(job.images, job.dtype)
    outputs = session.run([*taps, output], {onnx_graph.IMAGE: images})
    return {name: channels_last(array) for name, array in zip([*taps, last], outputs, strict=True)}


def _made(job: Job) -> bytes:
    """A model of ``job.layers`` with weights in the dtype that they are computed in."""
    tensors = {
        f"{layer.name}.{parameter}": Tensor.of(_laid_out(job, layer, parameter))
        for layer in job.layers
        for parameter in layer.parameters
    }
    return b"".join(onnx_graph.model(job.layers, tensors))


def _laid_out(job: Job, layer: Layer, parameter: str) -> Array:
    ours = layer.parameters[parameter]
    theirs = onnx_graph.AXES.get(layer.op, ours) if parameter == "weight" else ours
    return np.ascontiguousarray(rearrange(np.asarray(job.weights[f"{layer.name}.{parameter}"]), ours, theirs), job.dtype)


def serve(job: Job) -> Serve:
    """The model, ready to answer in a session with as many threads as ``OMP_NUM_THREADS`` says, which it does not ask itself."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
    session = onnxruntime.InferenceSession(_made(job), options, providers=["CPUExecutionProvider"])
    output = onnx_graph.output_name(job.layers)
    return lambda images: channels_last(session.run([output], {onnx_graph.IMAGE: channels_first(images, job.dtype)})[0])


BACKEND = Backend(
    "onnx",
    "the graph as a model for ONNX Runtime",
    requires=("onnxruntime",),
    kind="graph",
    run=run,
    serve=serve,
    serves="InferenceSession",
    opens=(".onnx",),
    untrained="ONNX Runtime only infers",
)
