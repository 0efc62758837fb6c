"""Codes GM1xx: reading files and merging them."""

from __future__ import annotations

from graphmodel.diagnostics.codes.entry import code

ENTRIES = (
    code(
        "GM100",
        "the file cannot be read",
        "The file does not exist, is a directory, or may not be read by the current user.",
        "graphmodel check no_such_file.yaml",
        "graphmodel check spec.yaml",
        "shell",
    ),
    code(
        "GM101",
        "not valid YAML",
        """The text is not valid YAML, or not UTF-8. The caret marks where the parser gave up; the cause is often on the
            line above: an unclosed bracket or quote, a tab, a missing colon.""",
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
        "duplicate key",
        """Most YAML parsers silently keep one of two equal keys and drop the other. Both locations are shown; rename or
            delete one of them.""",
        """
            trunk: {name: resnet, depth: 50, depth: 18}
            """,
        """
            trunk: {name: resnet, depth: 18}
            """,
    ),
    code(
        "GM103",
        "aliases expand without limit",
        "An alias contains itself, or nested aliases expand to more than 200,000 values. Write the values out.",
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
        """A spec is at most 4 MB and 100 levels deep. A spec describes a model; keep data and weights in separate
            files.""",
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
        "not a single mapping",
        "A spec file contains one YAML document, and the document is a mapping; it cannot be empty or a list.",
        """
            - trunk: resnet
            """,
        """
            trunk: resnet
            """,
    ),
    code(
        "GM106",
        "unsupported tag or key",
        """A spec is plain data: keys are strings, tags that name code (`!!python/object`) are not supported, and `<<`
            merges mappings only.""",
        """
            trunk: !!python/name:os.system resnet
            """,
        """
            trunk: resnet
            """,
    ),
    code(
        "GM107",
        "`extends` names a missing file or forms a cycle",
        """`extends` is a path or a list of paths, relative to the file that contains it. Each file must exist, and a
            file must not extend itself, directly or through other files.""",
        """
            extends: no_such_base.yaml
            trunk: resnet
            """,
    ),
    code(
        "GM108",
        "invalid `--set`",
        """An override has the form `path=value`: a path through mappings and lists, an equals sign, and a YAML value,
            as in `heads.a[0].mlp.dims=[auto, 10]`.""",
        "graphmodel check spec.yaml --set trunk.depth",
        "graphmodel check spec.yaml --set trunk.depth=101",
        "shell",
    ),
    code(
        "GM109",
        "a file of the `defaults` list is missing",
        """The files in Hydra's `defaults:` list are looked up beside the configuration and in the directories above it.
            A file that is not found is skipped with this warning. Pass it on the command line, before the file that
            names it.""",
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
    code(
        "GM110",
        "two formats in one file",
        """A file is in VISSL's format, with a `MODEL` block, or in the native one, with `trunk`, `heads` and `mapping`.
            In a file with both, one would be ignored. `graphmodel convert` turns a VISSL file into a native one.""",
        """
            MODEL: {TRUNK: {NAME: resnet}, HEAD: {PARAMS: [[mlp, {dims: [2048, 10]}]]}}
            trunk: resnet
            """,
        """
            MODEL: {TRUNK: {NAME: resnet}, HEAD: {PARAMS: [[mlp, {dims: [2048, 10]}]]}}
            """,
    ),
)
