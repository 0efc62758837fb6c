"""GM54x: what a compiled module is called with."""

from __future__ import annotations

from graphmodel.diagnostics.codes.entry import code

ENTRIES = (
    code(
        "GM540",
        "an input of the wrong kind",
        """An input is one tensor, or a list with one tensor for each view of the spec. A list of another length would
            lose views, or mix up those of different sizes.""",
        """
            spec = {"trunk": "resnet", "inputs": {"crops": {"views": [{"count": 2, "shape": [3, 64, 64]}]}}}
            module = graphmodel.compile(spec)
            module([torch.randn(2, 3, 64, 64)] * 3)
            """,
        """
            spec = {"trunk": "resnet", "inputs": {"crops": {"views": [{"count": 2, "shape": [3, 64, 64]}]}}}
            module = graphmodel.compile(spec)
            module([torch.randn(2, 3, 64, 64)] * 2)
            """,
        "python",
    ),
    code(
        "GM541",
        "an input of another shape",
        """The number of dimensions and channels is the spec's. The image size may be any that the trunk takes, unless
            the model depends on the compiled size: a table of positions, a classifier of flattened maps, code that
            decides by the size. Compile the model for the size that it is used with. Views that go through the model
            as one batch have one size. Inputs whose samples an output joins have one batch size.""",
        """
            trunk = {"name": "timm:vit_tiny_patch16_224", "img_size": 32}
            module = graphmodel.compile({"trunk": trunk, "inputs": {"images": [3, 32, 32]}})
            module(torch.randn(2, 3, 64, 64))
            """,
        """
            trunk = {"name": "timm:vit_tiny_patch16_224", "img_size": 64}
            module = graphmodel.compile({"trunk": trunk, "inputs": {"images": [3, 64, 64]}})
            module(torch.randn(2, 3, 64, 64))
            """,
        "python",
    ),
    code(
        "GM542",
        "an input of another dtype",
        """An input declared with a floating-point dtype (the default) may have any that the layers accept: the dtype
            of the weights, or a lower one in autocast. Images of bytes are converted first. An input declared as
            integers or booleans has exactly that dtype.""",
        """
            module = graphmodel.compile({"trunk": "resnet", "inputs": {"images": [3, 64, 64]}})
            module(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
            """,
        """
            module = graphmodel.compile({"trunk": "resnet", "inputs": {"images": [3, 64, 64]}})
            module(torch.zeros(2, 3, 64, 64, dtype=torch.uint8).float() / 255)
            """,
        "python",
    ),
    code(
        "GM543",
        "a trunk whose code takes another branch",
        """A trunk's own code may branch on a dtype, a device, autocast or the batch size. A graph has the branch that
            the code took when it was compiled. If another dtype, device or batch size takes another branch, the
            compiled module refuses it, since the result would not be the trunk's. A trunk that is read for its own
            result alone is one call, whose code decides anew every time.""",
        """
            from torch import nn

            class Trunk(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.stem = nn.Conv2d(3, 4, 3)

                def forward(self, x):
                    x = self.stem(x)
                    return x * 2 if x.dtype == torch.float32 else x * 3

            mapping = [{"from": "images.stem", "as": "stem"}, {"from": "images.output", "as": "output"}]
            spec = {"inputs": {"images": [3, 32, 32]}, "trunk": "given", "mapping": mapping}
            module = graphmodel.compile(spec, trunks={"trunk": Trunk()}).double()
            module(torch.randn(2, 3, 32, 32).double())
            """,
        """
            from torch import nn

            class Trunk(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.stem = nn.Conv2d(3, 4, 3)

                def forward(self, x):
                    x = self.stem(x)
                    return x * 2 if x.dtype == torch.float32 else x * 3

            mapping = [{"from": "images.stem", "as": "stem"}, {"from": "images.output", "as": "output"}]
            spec = {"inputs": {"images": [3, 32, 32]}, "trunk": "given", "mapping": mapping}
            module = graphmodel.compile(spec, trunks={"trunk": Trunk()})
            module(torch.randn(2, 3, 32, 32))
            """,
        "python",
    ),
)
