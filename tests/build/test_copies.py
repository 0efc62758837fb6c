"""Copies of trunks and heads: the same architecture and initial weights, frozen by default, found as pairs."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import nn

import graphmodel
from graphmodel.build.locked_spec import resolved_spec
from graphmodel.dialects.native.dump import dump, to_yaml
from graphmodel.graph.copies import copies
from graphmodel.spec.document import read_text
from tests.reference import NarrowResNet

BYOL: dict[str, Any] = {
    "inputs": {"images": [3, 32, 32]},
    "trunks": {"student": {"name": "resnet", "depth": 18, "width_multiplier": 0.25}, "teacher": {"copy": "student"}},
    "heads": {"project": {"mlp": {"dims": ["auto", 16, 8], "use_bn": True}}, "target": {"copy": "project"}},
    "mapping": {"images": {"student.flatten": "project", "teacher.flatten": "target"}},
}


def changed(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(BYOL), **changes}


def finding(document: Any, **options: Any) -> graphmodel.Diagnostic:
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.compile(document, **{"device": "meta", **options})
    (found,) = caught.value.diagnostics
    return found


class Networks(nn.Module):
    """The same model by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.student = NarrowResNet()
        self.student.fc = nn.Identity()
        self.project = nn.Sequential(nn.Linear(128, 16), nn.BatchNorm1d(16), nn.Linear(16, 8))
        self.teacher, self.target = copy.deepcopy(self.student), copy.deepcopy(self.project)
        for part in (self.teacher, self.target):
            part.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Both projections; the teacher is in eval mode."""
        self.teacher.eval()
        self.target.eval()
        return {"project": self.project(self.student(x)), "target": self.target(self.teacher(x))}


def test_a_training_step_and_an_averaged_teacher_equal_those_by_hand() -> None:
    model, reference = graphmodel.compile(BYOL, seed=0), Networks()
    reference.student.load_state_dict(model.trunks.student.state_dict(), strict=False)
    reference.teacher.load_state_dict(model.trunks.student.state_dict(), strict=False)
    for part in (reference.project, reference.target):
        part.load_state_dict(model.heads.project.clf.state_dict())
    x = torch.randn(4, 3, 32, 32)
    for _ in range(2):
        results = model(x), reference(x)
        for out in results:
            assert not out["target"].requires_grad
            (1 - nn.functional.cosine_similarity(out["project"], out["target"])).mean().backward()
        for name in results[0]:
            torch.testing.assert_close(results[0][name], results[1][name])
        pairs = {p: o for c, o in copies(model.model_graph).items() for p, o in by_name(model, c, o)}
        theirs = {*zip(reference.teacher.parameters(), reference.student.parameters(), strict=True)}
        theirs |= {*zip(reference.target.parameters(), reference.project.parameters(), strict=True)}
        for module, updates in ((model, pairs.items()), (reference, theirs)):
            with torch.no_grad():
                for p in module.parameters():
                    if p.grad is not None:
                        p -= 0.1 * p.grad
                        p.grad = None
                for averaged, own in updates:
                    averaged.lerp_(own, 0.5)
    torch.testing.assert_close(model.eval()(x), reference.eval()(x))


def by_name(model: nn.Module, one: str, other: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(p, model.get_parameter(f"{other}.{n}")) for n, p in model.get_submodule(one).named_parameters()]


def test_a_copy_starts_with_the_weights_of_its_original_and_is_frozen() -> None:
    model = graphmodel.compile(BYOL, seed=0)
    assert copies(model.model_graph) == {"trunks.teacher": "trunks.student", "heads.target": "heads.project"}
    state = model.state_dict()
    for name, tensor in state.items():
        assert torch.equal(tensor, state[name.replace("teacher", "student").replace("target", "project")])
    frozen = {n.split(".")[1] for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"teacher", "target"}
    assert len({p.data_ptr() for p in model.parameters()}) == len(list(model.parameters()))


def test_a_copy_does_not_change_the_weights_of_the_rest() -> None:
    alone = changed(
        trunks={"student": {"name": "resnet", "depth": 18, "width_multiplier": 0.25}},
        heads={"project": BYOL["heads"]["project"]},
    )
    alone["mapping"] = {"images": {"student.flatten": "project"}}
    model, other = graphmodel.compile(BYOL, seed=0), graphmodel.compile(alone, seed=0)
    state = model.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in other.state_dict().items())


def test_a_copy_may_train_and_come_first() -> None:
    trunks = {"b": {"copy": "a", "freeze": False}, "a": {"name": "resnet", "depth": 18, "width_multiplier": 0.25}}
    spec = {"inputs": BYOL["inputs"], "trunks": trunks, "mapping": {"images": {"b.flatten": None, "a.flatten": None}}}
    model = graphmodel.compile(spec, seed=0)
    assert all(p.requires_grad for p in model.parameters())
    assert next(iter(model.state_dict())).startswith("trunks.b.")
    assert torch.equal(model.trunks.a.conv1.weight, model.trunks.b.conv1.weight)


def test_a_copy_of_a_copy_has_the_same_original() -> None:
    spec = changed()
    spec["trunks"]["third"] = {"copy": "teacher", "freeze": False}
    spec["mapping"]["images"]["third.flatten"] = None
    graph = graphmodel.build_graph(graphmodel.load_spec(spec))
    assert copies(graph)["trunks.third"] == "trunks.student"
    assert "trunks.third" not in graph.frozen


def test_a_copy_overrides_drop_path() -> None:
    trunks = {"student": {"name": "timm:test_vit", "drop_path_rate": 0.5}, "teacher": {"copy": "student"}}
    trunks["teacher"] |= {"drop_path_rate": 0.0, "freeze": False}
    spec = {"inputs": {"images": [3, 160, 160]}, "trunks": trunks}
    spec["mapping"] = {"images": {"student": None, "teacher": None}}
    model = graphmodel.compile(spec, seed=0)
    drops = {name: [m.drop_prob for m in trunk.modules() if type(m).__name__ == "DropPath"]
             for name, trunk in model.trunks.named_children()}  # fmt: skip
    assert drops["teacher"] == []
    assert max(drops["student"]) == 0.5
    student, teacher = (t.state_dict() for t in (model.trunks.student, model.trunks.teacher))
    assert student.keys() == teacher.keys()
    assert all(torch.equal(v, teacher[k]) for k, v in student.items())


def test_position_embeddings_follow_the_image_size_of_a_copy() -> None:
    trunks = {"student": {"name": "timm:test_vit", "img_size": 64}, "teacher": {"copy": "student", "img_size": 96}}
    spec = {"inputs": {"small": [3, 64, 64], "large": [3, 96, 96]}, "trunks": trunks}
    spec["mapping"] = {"small": {"student": None}, "large": {"teacher": None}}
    model = graphmodel.compile(spec, seed=0)
    student, teacher = model.trunks.student.pos_embed, model.trunks.teacher.pos_embed
    expected = resample_abs_pos_embed(student, [6, 6], num_prefix_tokens=1, antialias=False)
    torch.testing.assert_close(teacher, expected)
    weights = model.trunks.student.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in model.trunks.teacher.state_dict().items() if k != "pos_embed")


def test_a_copy_of_a_given_module_starts_with_its_weights() -> None:
    given = NarrowResNet()
    model = graphmodel.compile(BYOL, trunks={"student": given}, seed=0)
    assert model.trunks.student.conv1 is given.conv1
    assert model.trunks.teacher.conv1 is not given.conv1
    assert torch.equal(model.trunks.teacher.conv1.weight, given.conv1.weight)
    assert finding(BYOL, trunks={"student": given, "teacher": given}).code == "GM205"


def test_a_chain_of_a_head_is_copied_module_by_module() -> None:
    spec = changed()
    spec["heads"]["project"] = [{"mlp": {"dims": ["auto", 8]}}, {"mlp": {"dims": ["auto", 4]}}]
    model = graphmodel.compile(spec, seed=0)
    pairs = {k: v for k, v in copies(model.model_graph).items() if k.startswith("heads")}
    assert pairs == {"heads.target.0": "heads.project.0", "heads.target.1": "heads.project.1"}
    assert torch.equal(
        model.state_dict()["heads.target.1.clf.0.weight"], model.state_dict()["heads.project.1.clf.0.weight"]
    )


# -- slices, files and passes ------------------------------------------------------------------------------------------


def test_a_teacher_alone_is_the_same_teacher() -> None:
    model = graphmodel.compile(BYOL, seed=0)
    x = torch.randn(2, 3, 32, 32)
    part, built = model.slice(outputs=["target"]), graphmodel.compile(BYOL, seed=0, outputs=["target"])
    again = graphmodel.compile(dump(resolved_spec(built.model_graph)), seed=0)
    expected = model.eval()(x)["target"]
    for module in (part, built, again):
        assert {k.split(".")[1] for k in module.state_dict()} == {"teacher", "target"}
        assert copies(module.model_graph) == {}
        assert torch.equal(module.eval()(x)["target"], expected)


def test_copies_survive_files_pickles_and_a_resolved_spec(tmp_path: Path) -> None:
    model = graphmodel.compile(BYOL, seed=0)
    graphmodel.save(model, tmp_path / "model")
    spec = graphmodel.load_spec(BYOL)
    assert graphmodel.load_spec(read_text(to_yaml(dump(spec))).data).model_dump() == spec.model_dump()
    again = graphmodel.compile(read_text(to_yaml(dump(resolved_spec(model.model_graph)))).data, seed=0)
    assert str(again.model_graph) == str(model.model_graph)
    for other in (graphmodel.load(tmp_path / "model"), pickle.loads(pickle.dumps(model)), copy.deepcopy(model), again):
        assert copies(other.model_graph) == copies(model.model_graph)
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())
        assert {n for n, p in other.named_parameters() if p.requires_grad} == {
            n for n, p in model.named_parameters() if p.requires_grad
        }


def test_diff_names_the_original() -> None:
    other = changed(
        trunks={**BYOL["trunks"], "teacher": {"name": "resnet", "depth": 18, "width_multiplier": 0.25, "freeze": True}}
    )
    assert "copy_of student became " in str(graphmodel.diff(BYOL, other))


def test_pictures_name_the_original() -> None:
    text = graphmodel.draw(BYOL, format="mmd")
    assert "copy of student" in text
    assert "copy of project" in text


# -- checkpoints -------------------------------------------------------------------------------------------------------


def network(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return NarrowResNet().state_dict()


def holds(trunk: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(v, state[k]) for k, v in trunk.state_dict().items())


@pytest.mark.parametrize("names", [("student", "teacher"), ("online", "ema"), ("encoder_q", "encoder_k")])
def test_a_checkpoint_of_two_networks_fills_both(names: tuple[str, str]) -> None:
    model = graphmodel.compile(BYOL, seed=0)
    parts = [network(1), network(2)]
    graphmodel.load_weights(model, dict(zip(names, parts, strict=True)))
    assert holds(model.trunks.student, parts[0])
    assert holds(model.trunks.teacher, parts[1])


def test_a_checkpoint_of_one_network_fills_both() -> None:
    model = graphmodel.compile(BYOL, seed=0)
    graphmodel.load_weights(model, network(1))
    assert holds(model.trunks.student, network(1))
    assert holds(model.trunks.teacher, network(1))


def filled(document: Any, state: Any, **options: Any) -> tuple[graphmodel.CompiledModel, graphmodel.LoadReport]:
    """A model with the weights of a state dict, and the report; every tensor is counted once."""
    model = graphmodel.compile(document, seed=7)
    report = graphmodel.load_weights(model, state, **options)
    assert report.covered == report.total - len(report.missing)
    assert not set(report.missing) & (set(report.matched) | set(report.unexpected))
    assert len({*report.matched.values()}) == len(report.matched)
    return model, report


def equal(part: nn.Module, state: dict[str, torch.Tensor], prefix: str) -> bool:
    return all(torch.equal(v, state[prefix + k]) for k, v in part.state_dict().items())


@pytest.fixture(scope="module")
def trained() -> dict[str, torch.Tensor]:
    """A state dict of the student and a teacher that has moved away from it."""
    model = graphmodel.compile(BYOL, seed=1)
    with torch.no_grad():
        for part in (model.trunks.teacher, model.heads.target):
            for tensor in part.parameters():
                tensor.add_(0.1)
    return model.state_dict()


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_a_state_of_the_student_alone_fills_the_teacher_and_its_heads_too(
    trained: dict[str, torch.Tensor], wrapper: str
) -> None:
    student = {k: v for k, v in trained.items() if k.startswith(("trunks.student.", "heads.project."))}
    model, report = filled(BYOL, {wrapper + k: v for k, v in student.items()})
    for trunk in (model.trunks.student, model.trunks.teacher):
        assert equal(trunk, trained, "trunks.student.")
    for head in (model.heads.project, model.heads.target):
        assert equal(head, trained, "heads.project.")
    assert report.copied == {"trunks.teacher": "trunks.student", "heads.target": "heads.project"}
    assert (report.missing, report.unexpected, len(report.matched)) == ([], [], 2 * len(student))
    assert "`trunks.teacher` got the weights of `trunks.student`" in str(report)


def test_a_state_of_both_fills_each_with_its_own(trained: dict[str, torch.Tensor]) -> None:
    model, report = filled(BYOL, trained)
    assert all(torch.equal(v, trained[k]) for k, v in model.state_dict().items())
    assert (report.copied, report.missing, report.unexpected) == ({}, [], [])


def test_a_state_of_the_teacher_alone_fills_the_student_and_its_heads_too(trained: dict[str, torch.Tensor]) -> None:
    teacher = {k: v for k, v in trained.items() if k.startswith(("trunks.teacher.", "heads.target."))}
    model, report = filled(BYOL, teacher)
    assert equal(model.trunks.student, trained, "trunks.teacher.")
    assert equal(model.heads.project, trained, "heads.target.")
    assert report.copied == {"trunks.student": "trunks.teacher", "heads.project": "heads.target"}


def test_a_model_with_one_trunk_fills_both_and_the_heads_by_their_names(trained: dict[str, torch.Tensor]) -> None:
    one = {k.replace("trunks.student.", "trunk."): v for k, v in trained.items() if "teacher" not in k}
    one = {k: v for k, v in one.items() if not k.startswith("heads.target.")}
    model, report = filled(BYOL, one)
    assert equal(model.trunks.teacher, one, "trunk.")
    assert equal(model.heads.target, one, "heads.project.")
    assert (report.missing, report.unexpected) == ([], [])
    # Several states with heads of the same names are not told apart.
    other = {k: v + 1 if v.is_floating_point() else v for k, v in one.items()}
    with pytest.warns(UserWarning, match=r"several networks .* have weights for `heads.project`"):
        model, report = filled(BYOL, {"student": one, "teacher": other})
    assert equal(model.trunks.teacher, other, "trunk.")
    assert len(report.missing) == len([k for k in model.state_dict() if k.startswith("heads.") and "num_" not in k])


def test_a_copy_of_a_head_on_one_trunk_starts_with_the_loaded_weights() -> None:
    document = changed(
        trunk={"name": "resnet", "depth": 18, "width_multiplier": 0.25},
        mapping={"images": {"flatten": "project", "res5": "target"}},
    )
    del document["trunks"]
    document["heads"]["target"]["freeze"] = False
    document["mapping"]["images"]["res5"] = {"pool": {"adaptive_avg_pool2d": 1}, "heads": ["target"]}
    state = graphmodel.compile(document, seed=3).state_dict()
    model, report = filled(document, {k: v for k, v in state.items() if not k.startswith("heads.target.")})
    assert equal(model.heads.target, state, "heads.project.")
    assert report.copied == {"heads.target": "heads.project"}


# -- findings ----------------------------------------------------------------------------------------------------------


def test_an_unknown_original_is_named_with_the_nearest() -> None:
    found = finding(changed(trunks={**BYOL["trunks"], "teacher": {"copy": "studnet"}}))
    assert (found.code, found.path) == ("GM205", "trunks.teacher.copy")
    assert "did you mean `student`?" in found.help
    found = finding(changed(heads={**BYOL["heads"], "target": {"copy": "projct"}}))
    assert (found.code, found.path) == ("GM206", "heads.target.copy")
    assert "did you mean `project`?" in found.help
    found = finding({"inputs": {"x": [3, 32, 32]}, "trunk": {"copy": "student"}})
    assert (found.code, found.path) == ("GM205", "trunk.copy")


def test_a_cycle_is_shown() -> None:
    trunks = {**BYOL["trunks"], "student": {"copy": "third"}, "third": {"copy": "teacher"}}
    found = finding(changed(trunks=trunks))
    assert found.code == "GM214"
    assert "`student` -> `third` -> `teacher` -> `student`" in found.message
    found = finding(changed(heads={**BYOL["heads"], "project": {"copy": "project"}}))
    assert "`project` -> `project`" in found.message


@pytest.mark.parametrize(
    ("override", "code", "path", "words"),
    [
        ({"depth": 34}, "GM214", "trunks.teacher", "`layer1.2.conv1.weight` is not in the original"),
        ({"width_multiplier": 2}, "GM214", "trunks.teacher", "in the original"),
        ({"width_per_group": 32}, "GM302", "trunks.teacher", "base_width=64"),
        ({"in_channels": 1}, "GM201", "trunks.teacher.in_channels", "in_channels"),
    ],
)
def test_a_copy_keeps_the_shapes_of_its_weights(override: dict[str, Any], code: str, path: str, words: str) -> None:
    found = finding(changed(trunks={**BYOL["trunks"], "teacher": {"copy": "student", **override}}))
    assert (found.code, found.path) == (code, path)
    assert words in found.message


def test_a_head_that_reads_another_width_is_no_copy() -> None:
    mapping = {"images": {"student.flatten": "project", "teacher.res4": {"pool": {"adaptive_avg_pool2d": 1}}}}
    mapping["images"]["teacher.res4"] |= {"flatten": True, "head": "target"}
    found = finding(changed(mapping=mapping))
    assert found.code == "GM304"
    assert "`target` is a copy of `project`" in found.message
    assert "64" in found.message
    assert "128" in found.message


@pytest.mark.parametrize("key", [{"pretrained": True}, {"input_type": "bgr"}, {"name": "resnet"}])
def test_what_a_copy_cannot_set_is_refused(key: dict[str, Any]) -> None:
    found = finding(changed(trunks={**BYOL["trunks"], "teacher": {"copy": "student", **key}}))
    assert (found.code, found.path) == ("GM202", "trunks.teacher")


def test_an_unused_original_is_no_finding() -> None:
    assert [n for n in graphmodel.load_spec({**BYOL, "outputs": ["target"]}).notes if n.severity == "warning"] == []


def test_timm_copies_keep_what_their_constructor_computes() -> None:
    """Buffers that are not saved are equal too."""
    spec = {"inputs": {"images": [3, 64, 64]}, "trunks": {"a": {"name": "timm:test_vit4"}, "b": {"copy": "a"}}}
    model = graphmodel.compile({**spec, "mapping": {"images": {"a": None, "b": None}}}, seed=0).eval()
    torch.manual_seed(0)
    own = dict(timm.create_model("test_vit4").named_buffers())
    for name, buffer in model.trunks.b.named_buffers():
        assert torch.equal(buffer, own[name])


def test_a_misspelled_parameter_of_a_copy_for_another_image_size_is_named() -> None:
    trunks = {"student": {"name": "timm:test_vit", "img_size": 64}, "teacher": {"copy": "student", "img_siz": 96}}
    spec = {"inputs": {"small": [3, 64, 64], "large": [3, 96, 96]}, "trunks": trunks}
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.compile({**spec, "mapping": {"small": {"student": None}, "large": {"teacher": None}}}, device="meta")
    (found,) = caught.value.diagnostics
    assert (found.code, found.path) == ("GM201", "trunks.teacher.img_siz")
    assert "did you mean `img_size`?" in found.help
