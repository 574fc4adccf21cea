"""The nouns: what a file holds, what a network is, and a network with its weights. Data, no logic.

Axes are named by letters: N batch, H height, W width, C channels of a map, I input and O output channels of a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

from xconvert.attributes import answering
from xconvert.tuples import NamedTuple

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
else:
    Array = Any  # of annotations alone: what only looks at a file does without NumPy


class DType(str):
    """The name of a NumPy dtype in native byte order, such as ``float32``, which NumPy takes for that dtype. bfloat16 and the
    8-bit floats are those of ``ml_dtypes``, which whoever makes their ``DType`` imports.
    """

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        """Whether ``other`` is the same name, NumPy's dtype of that name, or its scalar type, such as ``np.float32``."""
        return str.__eq__(self, other.__name__.rstrip("_") if isinstance(other, type) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    @property
    def kind(self) -> str:
        """NumPy's letter for booleans, signed and unsigned whole numbers, floats and complex numbers: one of ``biufc``; V for
        the floats of ``ml_dtypes``.
        """
        return "V" if self.startswith(("bfloat", "float8")) else self[0]

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return _itemsize(str(self))


@cache
def _itemsize(name: str) -> int:
    bits = name.partition("_")[0].lstrip("abcdefghijklmnopqrstuvwxyz")
    return int(bits) // 8 if bits else 1


class Tensor(NamedTuple):
    """One array of a checkpoint, read when asked for.

    ``read`` returns an array of exactly this shape and dtype, possibly read-only and possibly not contiguous. ``stored``, where
    the file has its bytes as such an array in C order has them: returns these, without NumPy. ``in_file``, of a tensor whose axes
    were moved: those axes in the order of the file, with what returns the bytes there. Whoever replaces ``read`` replaces both.
    ``told``, only in a checkpoint that is written: takes the tensor's bytes, piece by piece, as they go into the file.
    """

    shape: tuple[int, ...]
    dtype: DType
    read: Callable[[], Array]
    told: Callable[[memoryview], None] | None = None
    stored: Callable[[], memoryview] | None = None
    in_file: tuple[tuple[str, ...], Callable[[], memoryview] | None] | None = None

    @property
    def nbytes(self) -> int:
        """How many bytes its numbers take."""
        return prod(self.shape) * self.dtype.itemsize

    @classmethod
    def of(cls, array: Array) -> Tensor:
        """The tensor that holds ``array`` itself."""
        return cls(array.shape, DType(array.dtype.name), lambda: array)


class Checkpoint(NamedTuple):
    """What a file holds: tensors under the names the file gives them, in the file's own order.

    ``metadata``: the strings a format carries beside the tensors; xconvert's own record is the JSON text under
    ``"xconvert"``. ``evidence``: attributes that the file states by other means, such as the model configuration in a
    full Keras model, as attribute → (value, where it was found). ``stated``: what that configuration says of each layer
    of the model, by the layer's name in the file: ``"class"`` and its options. ``preprocessing``: what the file states of
    how images become inputs, in the words of the mapping files. ``averages``: whether the tensors are moving averages of
    weights that the file has too. ``notes``: what the reader unwrapped or left out, one clause each. ``format``: name of the
    format it was read from. ``program``: the graph that the file itself states, in the terms of ``Layer`` with ``width`` 0;
    None where a format states none.

    Only in a checkpoint that is to be written: ``dialect``, the dialect family of its names, and ``graph``, for formats
    that hold the network itself.
    """

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = {}
    evidence: Mapping[str, tuple[Any, str]] = {}
    stated: Mapping[str, Mapping[str, Any]] = {}
    preprocessing: Mapping[str, Any] = {}
    averages: bool = False
    notes: tuple[str, ...] = ()
    format: str = ""
    program: tuple[Layer, ...] | None = None
    dialect: str = ""
    graph: Graph | None = None


# The parameters of each operation that has any, in the order frameworks list them, with their canonical axes.
PARAMETERS: Mapping[str, Mapping[str, str]] = {
    "conv": {"weight": "H W I O"},
    "depthwise": {"weight": "H W C"},
    "pointwise": {"weight": "I O"},
    "batch_norm": {"gamma": "C", "beta": "C", "mean": "C", "variance": "C"},
    "linear": {"weight": "I O", "bias": "O"},
}


class Layer(NamedTuple):
    """One operation of the graph.

    ``op``: conv, depthwise, pointwise, batch_norm, relu, max_pool, add, global_average, linear. ``inputs`` are names
    of earlier layers, or ``"image"``. ``kernel``, ``stride`` and ``dilation`` are in pixels, the same for height and
    width. ``padding``: pixels added on every side, or ``"same_upper"`` (output is ceil(input / stride); an odd pixel goes
    to the end, as TensorFlow's SAME does). Convolutions pad with zeros, pools with minus infinity. ``scale``: what a
    linear layer multiplies its input with. ``width``: output channels of a convolution as published; those of a
    checkpoint are the shapes of its weights. ``momentum``, only in training: the share of its running statistics that a
    batch norm keeps at each step, 0.99 where PyTorch says 0.01; 0 where a graph in a file does not state it.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    kernel: int = 1
    stride: int = 1
    padding: int | str = 0
    epsilon: float = 0.0
    dilation: int = 1
    scale: float = 1.0
    width: int = 0
    momentum: float = 0.0

    @property
    def parameters(self) -> Mapping[str, str]:
        """Parameter name → canonical axes; empty for operations without weights."""
        return PARAMETERS.get(self.op, {})


class Graph(NamedTuple):
    """A network as a file format that holds networks needs it: ``layers`` in order of execution, ``names`` (layer with
    parameters → its name in the file) and ``weights`` (``"<layer>.<parameter>"``, canonical axes).
    """

    layers: tuple[Layer, ...]
    names: Mapping[str, str]
    weights: Mapping[str, Tensor]


class Depth(NamedTuple):
    """How many residual blocks a network has: those that reduce the map before the middle flow, and the middle flow's."""

    entry: int
    middle: int


class Family(NamedTuple):
    """What one file of ``architectures/`` offers.

    ``build(depth, head, attributes)`` returns the layers in order of execution; the last one's output is the
    network's. ``depths``: those that are looked for, the published ones first. ``attributes``: what may vary between
    implementations, each with the value its authors published. ``constants(depth)``: numbers that mapping files may use
    by name. ``differs``: what sets the family apart from the others, a clause. ``source``: where the numbers come from.
    """

    name: str
    describes: str
    source: str
    differs: str
    attributes: Mapping[str, Any]
    depths: tuple[Depth, ...]
    build: Callable[[Depth, bool, Mapping[str, Any]], tuple[Layer, ...]]
    constants: Callable[[Depth], Mapping[str, int]]


class Attribute(NamedTuple):
    """A value that is not in the weights, and where it was learned."""

    value: Any
    source: str


class Origin(NamedTuple):
    """Where a model was read: ``path`` as the user gave it, the ``checkpoint`` as the format gave it, and in ``record`` what
    xconvert wrote into the file, if it did. ``sha256`` computes the fingerprint of the files. ``place``: where they are, if
    ``path`` is a URL.
    """

    path: str
    checkpoint: Checkpoint
    record: Mapping[str, Any]
    sha256: Callable[[], str]
    place: str = ""


class Model(NamedTuple):
    """A network with its weights: a family at one depth, attributes, and tensors under canonical names and axes.

    ``weights``: ``"<layer>.<parameter>"`` → Tensor, every parameter of every layer and no other. ``attributes``: a
    value for each of the family's attributes. ``preprocessing``: how images become inputs, as in the mapping files.
    ``implementation``: the mapping whose names the weights came under, and ``metadata`` what else the file told under these
    names. ``omitted``: what the file has and the user asked to leave out. ``origin``: the file, where it was read from one.
    """

    family: Family
    depth: Depth
    head: bool
    attributes: Mapping[str, Attribute]
    weights: Mapping[str, Tensor]
    preprocessing: Mapping[str, Any] = {}
    implementation: str = ""
    metadata: Mapping[str, str] = {}
    notes: tuple[str, ...] = ()
    omitted: tuple[str, ...] = ()
    origin: Origin | None = None

    @property
    def values(self) -> dict[str, Any]:
        """The attributes without their sources."""
        return {name: attribute.value for name, attribute in self.attributes.items()}

    @property
    def inference(self) -> dict[str, Any]:
        """``values`` without those that matter in training alone: two models that differ in no other give the same answers."""
        return answering(self.values)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The graph, in order of execution."""
        return self.family.build(self.depth, self.head, self.values)
