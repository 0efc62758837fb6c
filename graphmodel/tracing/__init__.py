"""Opens a trunk: turns any `nn.Module` into a short graph of calls, as far as its requested features need.

How a trunk is opened. `opening.open_trunk` runs the trunk's own `forward` on proxies, as `torch.fx` does, with one
difference in what stays closed: only the root and the modules around a requested feature are entered, every other
module is recorded as a single call. A ResNet becomes six to eight calls, a ViT one per block. Nothing inside a stage is
traced, so its behaviour by mode, its hooks and its state-dict keys remain the library's own.

How names arise. A recorded call of a module has the module's path in the trunk as its target (`layer1`, `blocks.3`), a
parameter that opened code reads directly has the parameter's path. Tensors that the trunk keeps as plain attributes or
that its code computes up front, and modules that stand for functions which depend on the mode, get a free name in the
trunk; `TracedTrunk.extras` lists them. Requested features are outputs of modules (taps), or values computed from them.

Why several runs. Each proxy carries the result of its call in several runs on the meta device, which costs no memory
and no arithmetic. The first two runs differ in the batch size. A dimension that is equal in both is a plain number to
the trunk's code, so that its loops and branches resolve; a dimension that differs depends on the batch, so it is
recorded as a call of `size` and remains symbolic. Control flow on such a dimension, or on the data, cannot be followed.

A third run has another image size, with height and width multiplied by different factors, and sizes that differ are
symbolic in the same way; so is whatever is computed from them, even if it is equal in all runs (`H % 32`). A library's
function that decides by a size is recorded as one call, which decides anew for every size. If the trunk's own code
decides, or does not run at the other size, it is traced for the compiled size; `TracedTrunk.accepts` says which
dimensions are fixed, and the compiled module checks its inputs against it.

A branch by a dtype, a device, autocast or the batch size is tried with other ones. If the code takes the same branch
for all of them, nothing more is done; otherwise the graph checks at run time that the branch is the traced one.

The trunk is traced in training and in eval mode. If the two differ by dropout, by fixed arguments or by augmentation,
`both_modes` makes one graph of them whose modules follow the mode.

    opening         traces a trunk at several sizes and in both modes
    tracer          runs the trunk's code on proxies and records its calls
    proxy           the proxies, and what their values say
    meta_runs       executes each recorded call on the meta device
    trunk_tensors   names of the tensors that a trunk holds
    image_sizes     other sizes to try, and what a trunk accepts
    decisions       functions that decide by the size, recorded as one call each
    choices         branches by a dtype, a device, autocast or the batch size
    traced          the result, reduced to what the features need
    both_modes      one graph for both modes
    layout          how the dimensions of a feature are arranged, and conversions
    shape_only      normalisations and LSTMs on meta without their arithmetic
"""
