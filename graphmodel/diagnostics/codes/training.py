"""Codes GM590 to GM595: helpers for training loops, and trainers."""

from __future__ import annotations

from graphmodel.diagnostics.codes.entry import code

_MODEL = """
            spec = {"inputs": {"images": [3, 32, 32]}, "trunk": {"name": "resnet", "depth": 18}}
            model = graphmodel.compile({**spec, "heads": {"label": {"mlp": {"dims": ["auto", 10]}}}}, device="meta")"""

_TEACHER = """
            trunks = {"student": {"name": "resnet", "depth": 18}, "teacher": {"name": "resnet", "depth": 18}}
            trunks["teacher"]["freeze"] = True
            mapping = [{"from": "images.student.res5", "as": "z"}, {"from": "images.teacher.res5", "as": "target"}]
            spec = {"inputs": {"images": [3, 32, 32]}, "trunks": trunks, "mapping": mapping}
            model = graphmodel.compile(spec, seed=0)"""

ENTRIES = (
    code(
        "GM590",
        "not a compiled model",
        """Functions such as `save`, `load_weights` and `export` read the graph of a compiled model, and take nothing
            else. `param_groups`, `update_teacher`, `FreezeUntil` and the wrappers for trainers also accept a module
            that wraps or holds one (DDP, `torch.compile`, a LightningModule).""",
        """
            graphmodel.param_groups(torch.nn.Linear(2, 2), lr=0.1)
            """,
        f"""{_MODEL}
            graphmodel.param_groups(model, lr=0.1)
            """,
        "python",
    ),
    code(
        "GM591",
        "not a valid parameter group",
        """`param_groups` takes rates that are not negative, a `layer_decay` between 0 and 1, and names of heads of the
            model. At least one parameter must be left to train.""",
        f"""{_MODEL}
            graphmodel.param_groups(model, lr=0.1, head_lr={{"lable": 1.0}})
            """,
        f"""{_MODEL}
            graphmodel.param_groups(model, lr=0.1, head_lr={{"label": 1.0}})
            """,
        "python",
    ),
    code(
        "GM592",
        "not a valid teacher",
        """`update_teacher` averages the tensors of a student into those of a frozen teacher: both are trunks, heads or
            modules of the model with tensors of the same names and shapes. Without `pairs`, the teachers are the frozen
            copies in the spec (`copy: student`). The momentum is between 0 and 1.""",
        f"""{_TEACHER}
            graphmodel.update_teacher(model, 0.99, pairs={{"techer": "student"}})
            """,
        f"""{_TEACHER}
            graphmodel.update_teacher(model, 0.99, pairs={{"teacher": "student"}})
            """,
        "python",
    ),
    code(
        "GM593",
        "not a valid step to freeze until",
        """`FreezeUntil` takes the first step that trains for names that cover parameters of the model: a parameter, a
            module path, or a pattern with wildcards. Without names it reads VISSL's `TEMP_FROZEN_PARAMS_ITER_MAP`.""",
        f"""{_MODEL}
            graphmodel.FreezeUntil(model, {{"heads.lable": 100}})
            """,
        f"""{_MODEL}
            graphmodel.FreezeUntil(model, {{"heads.label": 100}})
            """,
        "python",
    ),
    code(
        "GM594",
        "losses that do not fit the model",
        """The wrappers for trainers take one function of all outputs and the batch's targets, or one function for each
            output that trains, by its name. A batch holds the model's inputs and the targets of the losses.""",
        f"""{_MODEL}
            from graphmodel.integrations.hf import TrainerModel
            TrainerModel(model, {{"lable": torch.nn.functional.cross_entropy}})
            """,
        f"""{_MODEL}
            from graphmodel.integrations.hf import TrainerModel
            TrainerModel(model, {{"label": torch.nn.functional.cross_entropy}})
            """,
        "python",
    ),
)
