"""A spec with several independent mistakes shows all of them at once, each once, and nothing that follows from one."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

import graphmodel
from graphmodel.diagnostics import CompileError
from graphmodel.diagnostics.input_error import InputError

SPECS = {
    "names, parameters, wiring and shapes": (
        """
        graphmodel: 1
        inputs:
          images: {shape: [3, 64, 64], vews: 2}             # ! vews
          other: {shape: [3, 64, 64]}
        trunks:
          t: {name: resnet, dept: 18, freeze: [layerr1]}    # ! dept  ! [layerr1
          u: {name: resnet, depth: 18}
        heads:
          a: {mlp: {dims: [auto, 3], drpout: 0.1}}          # ! drpout
          b: {mpl: {dims: [auto, 3]}}                       # ! mpl
          c: {mlp: {dims: [100, 3]}}                        # ! 100
          d: {mlp: {dims: [auto, 3]}}
          e: {mlp: {dims: [auto, 3]}}
        mapping:
          - {from: images.t.res9, head: a}
          - {from: images.t.res5, head: dd}                 # ! dd}
          - {from: images.u.res99, head: b}                 # ! images.u.res99
          - {from: other.u.flatten, head: c}
          - {from: other.u.flatten, head: d}
          - {from: other.u.res9, head: e}                   # ! other.u.res9
          - {from: d, head: e, as: chain, pool: {avg_pol2d: 2}}  # ! avg_pol2d
          - {head: e}                                       # ! {head
        freeze: [trunks.u.layerr1, heads.d]                 # ! trunks.u.layerr1
        outputs: [zz]                                       # ! zz
        """
    ),
    "shapes on both sides of a sound part": (
        """
        inputs: {images: [3, 64, 64], volume: [3, 8, 64, 64]}  # ! volume
        trunks: {t: {name: resnet, depth: 18}, u: {name: resnet, depth: 18}}
        heads:
          a: {mlp: {dims: [100, 3]}}                        # ! 100
          b: {mlp: {dims: [auto, 3]}}                       # ! {dims
          c: {mlp: {dims: [7, 3]}}                          # ! 7
          d: {mlp: {dims: [auto, 3]}}
        mapping:
          - {from: images.t.flatten, head: a}
          - {from: images.t.res5, head: b}
          - {from: a, head: d, as: first}
          - {from: images.u.flatten, head: d, as: second}
          - {from: second, head: c}
          - {from: volume.u.flatten, head: d, as: third}
        freeze: [trunks.t.layer9]                           # ! trunks.t.layer9
        """
    ),
    "misspelled sections are read as what they mean": (
        """
        inputz: {images: [3, 64, 64]}                       # ! inputz
        trunk: {name: resnet, depth: 18}
        hedas: {a: {mlp: {dims: [100, 3]}}}                 # ! hedas  ! 100
        maping: {images: {flatten: a, res9: a, res5: }}     # ! maping  ! res9
        chekpoint: 2                                        # ! chekpoint
        """
    ),
    "a VISSL file": (
        """
        config:
          MODEL:
            TRUNK:
              NAME: resnet
              RESNETS: {DEPHT: 18, WIDTH_MULTIPLIER: wide}  # ! DEPHT  ! wide
            HEAD:
              PARAMS: [["mpl", {"dims": [2048, 10]}]]       # ! "mpl"
              BATCHNORM_EPSS: 0.1                           # ! BATCHNORM_EPSS
            WEIGHTS_INIT: {REMOVE_PREFIXX: a}               # ! REMOVE_PREFIXX
        """
    ),
    "duplicate keys beside other mistakes": (
        """
        inputs: {images: [3, 64, 64]}
        trunk: {name: resnet, depth: 18}
        trunk: {name: regnet, variant: zz}                  # ! trunk
        heads:
          a: {mlp: {dims: [100, 3]}}                        # ! 100
          b: {mlp: {dims: [auto, 3], dims: [auto, 4]}}      # ! dims: [auto, 4]
        heads:                                              # ! heads
          c: {mlp: {dims: [auto, 3], drpout: 1}}            # ! drpout
        mapping: {images: {flatten: [a, b, c], res9: b}}    # ! res9
        freeze: [layerr1]                                   # ! layerr1
        """
    ),
    "duplicate keys of a VISSL file": (
        """
        MODEL:
          TRUNK: {NAME: resnet, RESNETS: {DEPTH: 18}}
          HEAD:
            PARAMS: [["mlp", {"dims": [100, 10]}]]          # ! 100
            BATCHNORM_EPS: 0.1
            BATCHNORM_EPS: 0.2                              # ! BATCHNORM_EPS
          TRUNK: {NAME: regnet}                             # ! TRUNK
          FEATURE_EVAL_SETTINGS: {EVAL_MODE_ON: true, FREEZE_TRUNK_ONLY: true, EVAL_MODE_ON: false}  # ! EVAL_MODE_ON: false
          HEAD: {PARAMS: []}                                # ! HEAD
        """
    ),
    "stages to recompute beside heads": (
        """
        inputs: {images: [3, 64, 64], patches: [3, 64, 64]}
        trunk: {name: resnet, depth: 18}
        heads:
          a: {linear: {dims: [auto, 10]}}                   # ! dims  ! linear
          b: {mlp: {dims: [7, 3]}}                          # ! 7
        mapping: {images: {flatten: a}, patches: {flatten: b}}
        freeze: [trunk.layer9]                              # ! trunk.layer9
        checkpoint: [layer2, layr3, trunk.layer3.9]         # ! layr3  ! trunk.layer3.9
        """
    ),
    "mistakes that concern no output": (
        """
        inputs: {images: [3, 64, 64]}
        trunk: {name: resnet, depth: 18}
        heads:
          a: {mlp: {dims: [100, 3]}}                        # ! 100
          b: {mlp: {dims: [7, 3]}}                          # ! 7
        mapping: {images: {flatten: [a, b]}}
        returns: tupel                                      # ! tupel
        optimise: true                                      # ! optimise
        optimize: [merge_cals]                              # ! merge_cals
        """
    ),
    "cycles and copies": (
        """
        inputs: {images: [3, 64, 64]}
        trunks: {s: {name: resnet, depth: 18}, t: {copy: z}}  # ! z}
        heads:
          a: {mlp: {dims: [auto, 3]}}
          b: {mlp: {dims: [auto, 3]}}
          c: {copy: q}                                      # ! q}
          d: {mlp: {dims: [auto, 3], use_bm: true}}         # ! use_bm
          e: {mlp: {dims: [5, 3]}}                          # ! 5
        mapping:
          - {from: b, head: a}
          - {from: a, head: b}                              # ! {from
          - {from: images.s.flatten, head: c}
          - {from: images.t.flatten, head: d}
          - {from: images.s.flatten, head: e}
        """
    ),
}


def expected(text: str) -> list[tuple[int, int]]:
    """Line and column of each mistake: a comment `! word` names the word of its line at which it begins."""
    found: list[tuple[int, int]] = []
    for number, line in enumerate(text.splitlines(), 1):
        code, _, comment = line.partition("# ! ")
        words = comment.split("  ! ") if comment else []
        found += [(number, code.index(word.strip()) + 1) for word in words]
    return found


@pytest.mark.parametrize("name", SPECS)
def test_every_mistake_is_reported_once(name: str, tmp_path: Path) -> None:
    text = textwrap.dedent(SPECS[name]).lstrip("\n")
    places = expected(text)
    assert len(places) >= 5
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(CompileError) as caught:
        graphmodel.compile(path)
    found = [(d.span.line, d.span.column) for d in caught.value.diagnostics if d.span and d.severity == "error"]
    assert len(found) == len(caught.value.diagnostics)
    assert sorted(found) == sorted(places), str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "inputs: {images: [3, 64, 64]}\ntrunk: 3\nheads: {a: {mlp: {dims: [auto, 3]}}}\nmapping: {images: {flatten: a}}\n",
        "inputs: 3\ntrunk: {name: resnet}\nheads: {a: {mlp: {dims: [auto, 3]}}}\nmapping: {images: {flatten: a}}\n",
        "inputs: {images: [3, 64, 64]}\ntrunk: {name: resnet}\nheads: 3\nmapping: {images: {flatten: a}}\n",
        "inputs: {images: [3, 64, 64]}\ntrunk: {name: resnet}\nheads: {a: 3}\nmapping: {images: {flatten: a}}\n",
        "inputs: {images: [3, 64, 64]}\ntrunk: {name: resnet}\nheads: {a: {mlp: {dims: [auto, 3]}}}\nmapping: 3\n",
        "inputs: {a: 3, b: [3, 64, 64]}\ntrunk: {name: resnet}\nmapping: {a: {flatten: }, b: {flatten: }}\n",
        "inputs: {a: [3, 64, 64], b: [3, 64, 64]}\ntrunk: {name: resnet}\nmapping: [{from: a.flatten, as: x}, 3]\noutputs: [x]\n",
    ],
)
def test_what_depends_on_a_mistake_is_not_reported(text: str) -> None:
    import yaml

    with pytest.raises(CompileError) as caught:
        graphmodel.compile(yaml.safe_load(text))
    assert [d.code for d in caught.value.diagnostics] == ["GM202"], str(caught.value)


def test_load_spec_raises_what_it_finds_itself() -> None:
    with pytest.raises(CompileError, match="GM201"):
        graphmodel.load_spec({"inputs": {"images": [3, 64, 64]}, "trunk": "resnet", "heds": {}})


@pytest.mark.parametrize(
    "arguments", [["convert"], ["convert", "-o", "out.yaml"], ["show"], ["show", "--resolved"]], ids=" ".join
)
def test_commands_that_build_nothing_refuse_mistakes(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from graphmodel.cli import app

    monkeypatch.chdir(tmp_path)
    text = "inputs: {images: [3, 64, 64], zz: 3}\ntrunk: {name: resnet, depth: 18}\nmapping: {images: {flatten: }}\n"
    Path("spec.yaml").write_text(text)
    result = CliRunner().invoke(app, [*arguments, "spec.yaml"])
    assert result.exit_code == 1
    assert "error[GM202]: `inputs.zz`" in result.stderr
    assert result.stdout == ""
    assert not Path("out.yaml").exists()


SPEC = {
    "inputs": {"images": [3, 32, 32]},
    "trunk": {"name": "resnet"},
    "heads": {"label": {"mlp": {"dims": ["auto", 3]}}},
}


def test_an_override_of_a_name_that_is_not_there_needs_a_plus() -> None:
    with pytest.raises(CompileError, match="did you mean `label`"):
        graphmodel.load_spec(SPEC, ["heads.lable.mlp.dims=[auto, 4]"])
    spec = graphmodel.load_spec(SPEC, ["+heads.second.mlp.dims=[auto, 4]", "trunk.depth=18", "checkpoint=2"])
    assert list(spec.heads) == ["label", "second"]
    assert spec.trunks["trunk"].params == {"depth": 18}


def test_a_batch_that_a_head_cannot_join_is_refused_with_the_numbers() -> None:
    import torch

    heads = {"j": [{"siamese_concat_view": {"num_towers": 9}}, {"mlp": {"dims": ["auto", 4]}}]}
    spec = {"inputs": {"p": [3, 32, 32]}, "trunk": {"name": "resnet", "depth": 18}, "heads": heads}
    model = graphmodel.compile({**spec, "mapping": {"p": {"flatten": "j"}}})
    assert model(torch.randn(18, 3, 32, 32))["j"].shape == (2, 4)
    with pytest.raises(InputError, match="has 17 samples and the head `j` joins 9 into one"):
        model(torch.randn(17, 3, 32, 32))
