"""GM215 and GM216: grids of heads."""

from __future__ import annotations

from graphmodel.diagnostics.codes.entry import code

ENTRIES = (
    code(
        "GM215",
        "grid that cannot be expanded",
        """Every combination of the values of a grid is a head. Its name is made of the grid's name and the values, so
            the names must differ from one another and from those of other heads. Values without a short form, such as
            lists, need names (`{small: …, large: …}`). If a layer sets something itself, the grid cannot have several
            values of it.""",
        """
            inputs: {images: [3, 64, 64]}
            trunk: {name: resnet, depth: 18}
            grid:
              probe: {head: {mlp: {dims: [auto, 10]}}, layers: [flatten], lr: [0.1, 0.01, 1e-1]}
            """,
        """
            inputs: {images: [3, 64, 64]}
            trunk: {name: resnet, depth: 18}
            grid:
              probe: {head: {mlp: {dims: [auto, 10]}}, layers: [flatten], lr: [0.1, 0.01]}
            """,
    ),
    code(
        "GM216",
        "grid of too many heads",
        """The number of heads is the product of the numbers of values of all axes. The limit is 1,000 heads for each
            grid.""",
        """
            inputs: {images: [3, 64, 64]}
            trunk: {name: resnet, depth: 18}
            grid:
              probe:
                head: {mlp: {dims: [auto, 10]}}
                lr: &rates
                  [
                      1e-9, 2e-9, 3e-9, 5e-9, 1e-8, 2e-8, 3e-8, 5e-8, 1e-7, 2e-7, 3e-7, 5e-7, 1e-6, 2e-6, 3e-6,
                      5e-6, 1e-5, 2e-5, 3e-5, 5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2, 2e-2,
                      3e-2, 5e-2,
                  ]
                weight_decay: *rates
            """,
        """
            inputs: {images: [3, 64, 64]}
            trunk: {name: resnet, depth: 18}
            grid:
              probe:
                head: {mlp: {dims: [auto, 10]}}
                lr: [1e-3, 1e-2, 0.1]
                weight_decay: [0, 1e-4]
            """,
    ),
)
