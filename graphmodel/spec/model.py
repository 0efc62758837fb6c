"""The resolved model specification: the result of every dialect, and the only input of the graph builder."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PrivateAttr

from graphmodel.diagnostics import Collector, Diagnostic, Span
from graphmodel.spec.display import Displayed
from graphmodel.spec.document import Document, KeyPath
from graphmodel.spec.fields import FrozenModel

Returns = Literal["dict", "tuple", "list", "tensor"]
Grouping = Literal["resolution", "consecutive", "crop"]
Dtype = Literal["float32", "float16", "bfloat16", "float64", "uint8", "int8", "int16", "int32", "int64", "bool"]
InputType = Literal["rgb", "bgr", "lab"]
MemoryFormat = Literal["contiguous", "channels_last"]
BatchNorm = Literal["eval", "train"]
Combine = Literal["concat", "sum", "stack", "list", "dict"]
Layout = Literal["nchw", "nhwc", "nlc"]
Tokens = Literal["class", "patch", "mean", "all"]
ResizeMode = Literal["nearest", "nearest-exact", "linear", "bilinear", "bicubic", "trilinear", "area"]
Switches = bool | tuple[str, ...] | dict[str, bool]
Checkpointing = bool | int | tuple[str, ...] | dict[str, int | str]

Shape = tuple[int, ...]


class Part(FrozenModel):
    """A part of a resolved spec; `at` is its path in the document."""

    at: KeyPath = Field((), exclude=True, repr=False)


class TransformCall(Part):
    """One transform of an image, by its name in `graphmodel.spec.transforms`, and its parameters."""

    name: str
    params: dict[str, Any] = Field(default_factory=dict)


Transforms = Literal["timm"] | tuple[TransformCall, ...]


class InputSpec(Part):
    """One input of the model.

    Attributes:
        shape: per-sample shape, `(C, H, W)` for images; None if the file has none.
        views: the shape of each tensor of a list input, in the order in which they come; None for a single tensor.
        dtype: the tensors' dtype.
        grouping: how views share trunk passes: one per `resolution`, one per run of `consecutive` equal shapes (as
            VISSL does), or one per `crop`.
        companions: names of further inputs that the trunk takes beside this one, such as a mask.
        raw: no trunk reads it; a head reads the input itself.
        transform: what `graphmodel extract` does to an image file; `timm` is what timm says of the trunk, None the
            default.
    """

    name: str
    shape: Shape | None = None
    views: tuple[Shape, ...] | None = None
    dtype: Dtype = "float32"
    grouping: Grouping = "resolution"
    companions: tuple[str, ...] = ()
    raw: bool = False
    transform: Transforms | None = None


class TrunkSpec(Part):
    """A trunk: a registered family, `torchvision:NAME`, `timm:NAME`, or a factory `package.module:Factory`.

    Attributes:
        name: its name in the spec; `trunk` if there is only one.
        family: the registered or library name.
        params: the family's own parameters.
        freeze: no parameter is trained, no statistic updated, nothing dropped out.
        batchnorm: the mode of its BatchNorm layers if it is frozen: with fixed statistics, or with those of the batch
            in training, which moves the running ones.
        input_type: the channel order that the trunk expects of its `rgb` (or `lab`) input.
        memory_format: how its feature maps and weights lie in memory; results have the usual strides.
        pretrained: the library's published weights, or a file in the library's own layout.
        imports: whether `family` names Python code to import, which the caller must allow.
        copy_of: the trunk whose weights this one starts with; empty if it is not a copy. A copy has the family and the
            parameters of its original, except for those that it overrides.
    """

    name: str
    family: str
    params: dict[str, Any] = Field(default_factory=dict)
    freeze: bool = False
    batchnorm: BatchNorm = "eval"
    input_type: InputType = "rgb"
    memory_format: MemoryFormat = "contiguous"
    pretrained: bool | str = False
    imports: bool = False
    copy_of: str = ""


class ModuleCall(Part):
    """One module of a head: a registered name and its parameters."""

    name: str
    params: dict[str, Any] = Field(default_factory=dict)


class HeadSettings(FrozenModel):
    """What belongs to a head and not to its modules.

    Attributes:
        lr: its learning rate; None for that of the optimizer.
        weight_decay: the weight decay of its matrices and kernels; None for that of the optimizer.
        grid: the grid that it comes from; empty if it was written by itself.
        labels: its value on each axis of the grid, as in its name: `{"layers": "last4", "lr": "0.01"}`.
    """

    lr: float | None = None
    weight_decay: float | None = None
    grid: str = ""
    labels: dict[str, str] = Field(default_factory=dict)


class HeadSpec(Part):
    """A head: one module, or several in a chain.

    Attributes:
        name: its name in the spec.
        chain: its modules in order.
        copy_of: the head whose modules and weights this one starts with; empty if it is not a copy.
        freeze: it does not train.
        batchnorm: the mode of its BatchNorm layers if it is frozen, as of a trunk.
        settings: how it trains, and its place in a grid.
    """

    name: str
    chain: tuple[ModuleCall, ...]
    copy_of: str = ""
    freeze: bool = False
    batchnorm: BatchNorm = "eval"
    settings: HeadSettings = Field(default_factory=HeadSettings)


class PoolSpec(Part):
    """A pooling operation on a feature map, by its `torch.nn.functional` name."""

    op: str
    params: dict[str, Any] = Field(default_factory=dict)


class ResizeSpec(Part):
    """A feature map resampled to another size.

    Attributes:
        size: the size of each spatial dimension; or that of the `largest` or `smallest` map that an output joins, or
            of the `input`.
        mode: as in `torch.nn.functional.interpolate`; None is linear in as many dimensions as the map has.
        antialias: as there.
        align_corners: as there.
    """

    size: tuple[int, ...] | Literal["largest", "smallest", "input"]
    mode: ResizeMode | None = None
    antialias: bool = False
    align_corners: bool = False


class Source(Part):
    """What an output reads: a feature of an input, the input itself, or another output.

    Attributes:
        input: the input's name; empty if it is another output.
        output: the output that it reads, or one tensor of it (`swav.embedding`); empty for an input or a feature.
        trunk: the trunk's name; None reads the input itself.
        feature: a feature name or dotted module path; None is the trunk's default feature.
        detach: no gradient flows back to it.
        pool: pooling before the head.
        resize: resampling after the pooling.
        flatten: flatten all dimensions after the batch.
        normalize: divide by the Euclidean norm over the channels.
        layout: reshape to this layout.
        tokens: which tokens of a token sequence.
        norm: apply (or not) the trunk's final norm to an intermediate feature; None leaves the feature's default.
        key: its key for a head that reads a dict; empty is the name of the feature (or output, or input).
        any_layout: pool and read the feature as it comes, wherever its channels are, instead of refusing a map with
            channels last; VISSL does so, and its files keep its numbers.
    """

    input: str
    output: str = ""
    trunk: str | None = "trunk"
    feature: str | None = None
    detach: bool = False
    pool: PoolSpec | None = None
    resize: ResizeSpec | None = None
    flatten: bool = False
    normalize: bool = False
    layout: Layout | None = None
    tokens: Tokens | None = None
    norm: bool | None = None
    any_layout: bool = False
    key: str = ""


class Edge(Part):
    """One output: the sources it reads, and the head that maps them, if any.

    Attributes:
        combine: how several sources become one value; None is as the head reads them, and `concat` for most.
    """

    sources: tuple[Source, ...]
    combine: Combine | None = None
    head: str | None = None
    output: str


class VisslNaming(Part):
    """What VISSL's state-dict keys depend on besides the model itself.

    Attributes:
        feature_extractor: VISSL wraps the trunk as a frozen extractor and puts its keys under `base_model.`.
        composite_heads: heads that VISSL builds from a list of modules, even if the list has one entry.
    """

    feature_extractor: bool = False
    composite_heads: tuple[str, ...] = ()


class WeightsSpec(Part):
    """Where weights come from, as in VISSL's `WEIGHTS_INIT`; only `load_weights` loads them.

    Attributes:
        file: the checkpoint's path.
        key: the name of the state dict inside the checkpoint.
        skip: keys that contain one of these are not loaded.
        remove_prefix: removed from every key that starts with it.
        append_prefix: put before every key.
        vissl: how VISSL names this model's tensors; None if the spec did not come from VISSL.
    """

    file: str = ""
    key: str = ""
    skip: tuple[str, ...] = ()
    remove_prefix: str = ""
    append_prefix: str = ""
    vissl: VisslNaming | None = None


class ModelSpec(Part, Displayed):
    """A whole model, every name resolved and every default filled in.

    Example:
        >>> import graphmodel
        >>> spec = graphmodel.load_spec({"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}})
        >>> spec.trunks["trunk"].family, spec.inputs["images"].shape
        ('resnet', (3, 64, 64))

    Attributes:
        head_defaults: parameters for every head that has them and does not set them.
        freeze: name patterns over components, module paths and parameters.
        outputs: the nesting and order of the list form; names of `edges`' outputs.
        returns: the form of the module's result.
        checkpoint: activation checkpointing: the number of segments that each trunk is divided into, True for one per
            stage, 0 for none; names of stages; `{"every": 2}` for every second stage; or
            `{"memory_budget": "4GiB", "batch": 64}` for as few as a training step of that size needs.
        optimize: which optimization passes run: True for the default ones, False for none, a list of names for exactly
            these, or a mapping of names that turns some on or off and leaves the others at their defaults.
    """

    name: str = "model"
    dialect: str = "native"
    inputs: dict[str, InputSpec]
    trunks: dict[str, TrunkSpec]
    heads: dict[str, HeadSpec] = Field(default_factory=dict)
    head_defaults: dict[str, Any] = Field(default_factory=dict)
    edges: tuple[Edge, ...]
    freeze: tuple[str, ...] = ()
    outputs: tuple[Any, ...] = ()
    returns: Returns = "dict"
    checkpoint: Checkpointing = 0
    optimize: Switches = True
    weights: WeightsSpec | None = None

    _document: Document = PrivateAttr(default_factory=lambda: Document({}))
    _notes: tuple[Diagnostic, ...] = PrivateAttr(default=())
    _errors: Collector = PrivateAttr(default_factory=Collector)
    _is_only_named: bool = PrivateAttr(default=False)
    _origin: Document = PrivateAttr(default_factory=lambda: Document({}))

    @property
    def document(self) -> Document:
        """The native document that this spec was resolved from, with the locations of what the user wrote."""
        return self._document

    @property
    def notes(self) -> tuple[Diagnostic, ...]:
        """Warnings and notes of the dialect."""
        return self._notes

    @property
    def errors(self) -> Collector:
        """What is wrong with it so far, if `read_spec` went on after mistakes; a build raises them with its own."""
        return self._errors

    @property
    def is_only_named(self) -> bool:
        """Whether mistakes leave only its names and parameters to be checked, and no shapes."""
        return self._is_only_named

    @property
    def origin(self) -> Document:
        """The merged document as the user wrote it, in its own dialect."""
        return self._origin

    def span(self, path: KeyPath, *, key: bool = False) -> Span | None:
        """The location of a path in the native document."""
        return self._document.span(path, key=key)
