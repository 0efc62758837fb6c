"""Codes GM1xx: reading files and joining them."""

from __future__ import annotations

from graphmodel.diagnostics.codes.entry import code

ENTRIES = (
    code(
        "GM100",
        "the file cannot be read",
        "There is no such file, it is a directory, or its permissions forbid reading it.",
        "graphmodel check no_such_file.yaml",
        "graphmodel check spec.yaml",
        "shell",
    ),
    code(
        "GM101",
        "not readable as YAML",
        """The text is no YAML, or no UTF-8. The caret stands where the parser gave up; the cause is often one line
            above: an open bracket or quote, a tab, a missing colon.""",
        """
            trunk: {name: resnet
            heads: {}
            """,
        """
            trunk: {name: resnet}
            heads: {}
            """,
    ),
    code(
        "GM102",
        "a key stands twice",
        """YAML readers keep one of two equal keys and drop the other in silence. Both places are shown; rename or
            delete one.""",
        """
            trunk: {name: resnet, depth: 50, depth: 18}
            """,
        """
            trunk: {name: resnet, depth: 18}
            """,
    ),
    code(
        "GM103",
        "aliases without end",
        """An alias that contains itself, or aliases of aliases that expand to more than 200,000 values. Write the
            values out.""",
        """
            trunk: &a {name: resnet, again: *a}
            """,
        """
            trunk: {name: resnet}
            """,
    ),
    code(
        "GM104",
        "too large or nested too deeply",
        """A spec is at most 4 MB and 100 levels deep. It describes a model; keep data and weights in files of their
            own.""",
        f"""
            outputs: {"[" * 110 + "]" * 110}
            """,
        """
            trunk: resnet
            outputs: [resnet]
            """,
    ),
    code(
        "GM105",
        "not one mapping",
        "A spec file holds one YAML document and that is a mapping: not empty, not a list, not several documents.",
        """
            - trunk: resnet
            """,
        """
            trunk: resnet
            """,
    ),
    code(
        "GM106",
        "a tag or key that a spec cannot have",
        """A spec is plain data: text keys, no tags that name code (`!!python/object`), `<<` on mappings only.""",
        """
            trunk: !!python/name:os.system resnet
            """,
        """
            trunk: resnet
            """,
    ),
    code(
        "GM107",
        "`extends` leads nowhere or in a circle",
        """`extends` is a path or a list of paths, relative to the file that says it. The file must exist, and no
            file may extend itself, however long the way round.""",
        """
            extends: no_such_base.yaml
            trunk: resnet
            """,
    ),
    code(
        "GM108",
        "a bad `--set`",
        """An override is `path=value`: a path through mappings and lists (`heads.a[0].mlp.dims=[auto, 10]`), then a
            YAML value.""",
        "graphmodel check spec.yaml --set trunk.depth",
        "graphmodel check spec.yaml --set trunk.depth=101",
        "shell",
    ),
    code(
        "GM109",
        "a file of the defaults list is not there",
        """Hydra's `defaults:` list is followed as far as the files it names lie beside the configuration or in a
            folder above it. One that is not there is left out with this warning: give it on the command line, before
            the file that names it.""",
        """
            defaults:
              - nowhere/to_be_found
            config:
              MODEL: {TRUNK: {NAME: resnet}, HEAD: {PARAMS: [[mlp, {dims: [2048, 10]}]]}}
            """,
        """
            config:
              MODEL: {TRUNK: {NAME: resnet}, HEAD: {PARAMS: [[mlp, {dims: [2048, 10]}]]}}
            """,
    ),
)
