"""A declarative model-graph compiler for PyTorch vision and self-supervised learning."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from graphmodel.diagnostics import CompileError, Diagnostic, Span
from graphmodel.spec.display import register_display as _register_display

if TYPE_CHECKING:
    from graphmodel.api import build_graph, compile
    from graphmodel.artifact import load, save
    from graphmodel.comparison import diff
    from graphmodel.components.family import TrunkFamily
    from graphmodel.components.features import Feature
    from graphmodel.components.head import HeadParams
    from graphmodel.components.registry import register_head, register_trunk
    from graphmodel.components.tensors import TensorInfo
    from graphmodel.dialects.loading import load_spec
    from graphmodel.exporters import ExportReport, export
    from graphmodel.extraction import ExtractReport, FeatureDataset, extract
    from graphmodel.graph.types import ModelGraph
    from graphmodel.losses import fused_cross_entropy
    from graphmodel.lower.inference import InferenceModel, optimize_for_inference
    from graphmodel.lower.module import CompiledModel
    from graphmodel.lower.splitting import split_frozen
    from graphmodel.lower.torch_compile import torch_compile
    from graphmodel.passes.per_sample import register_per_sample
    from graphmodel.pipelining.split import PipelineSplit, split_pipeline
    from graphmodel.probing import ProbeReport, ProbeResult, probe
    from graphmodel.sharding.materialise import materialise
    from graphmodel.sharding.plan import shard_plan
    from graphmodel.sharding.table import shard_table
    from graphmodel.spec.model import ModelSpec
    from graphmodel.stage_profile import profile
    from graphmodel.training.freeze_until import FreezeUntil
    from graphmodel.training.groups import param_groups
    from graphmodel.training.teacher import update_teacher
    from graphmodel.visualize import draw
    from graphmodel.weights.export import export_weights
    from graphmodel.weights.load import load_weights
    from graphmodel.weights.report import LoadReport

__version__ = "0.2.0"

# Loaded on first use: `import graphmodel`, `--help` and a malformed file must not wait for torch.
_LAZY = {
    "build_graph": "graphmodel.api",
    "compile": "graphmodel.api",
    "diff": "graphmodel.comparison",
    "draw": "graphmodel.visualize",
    "export": "graphmodel.exporters",
    "export_weights": "graphmodel.weights.export",
    "extract": "graphmodel.extraction",
    "fused_cross_entropy": "graphmodel.losses",
    "load": "graphmodel.artifact",
    "load_spec": "graphmodel.dialects.loading",
    "load_weights": "graphmodel.weights.load",
    "profile": "graphmodel.stage_profile",
    "save": "graphmodel.artifact",
    "register_head": "graphmodel.components.registry",
    "register_per_sample": "graphmodel.passes.per_sample",
    "register_trunk": "graphmodel.components.registry",
    "Feature": "graphmodel.components.features",
    "HeadParams": "graphmodel.components.head",
    "torch_compile": "graphmodel.lower.torch_compile",
    "TensorInfo": "graphmodel.components.tensors",
    "TrunkFamily": "graphmodel.components.family",
    "ExportReport": "graphmodel.exporters",
    "ExtractReport": "graphmodel.extraction",
    "FeatureDataset": "graphmodel.extraction",
    "CompiledModel": "graphmodel.lower.module",
    "LoadReport": "graphmodel.weights.report",
    "ModelGraph": "graphmodel.graph.types",
    "ModelSpec": "graphmodel.spec.model",
    "InferenceModel": "graphmodel.lower.inference",
    "optimize_for_inference": "graphmodel.lower.inference",
    "materialise": "graphmodel.sharding.materialise",
    "shard_plan": "graphmodel.sharding.plan",
    "shard_table": "graphmodel.sharding.table",
    "split_frozen": "graphmodel.lower.splitting",
    "ProbeReport": "graphmodel.probing",
    "ProbeResult": "graphmodel.probing",
    "probe": "graphmodel.probing",
    "PipelineSplit": "graphmodel.pipelining.split",
    "split_pipeline": "graphmodel.pipelining.split",
    "FreezeUntil": "graphmodel.training.freeze_until",
    "param_groups": "graphmodel.training.groups",
    "update_teacher": "graphmodel.training.teacher",
    "load_ipython_extension": "graphmodel.integrations.ipython",  # for `%load_ext graphmodel`
    "unload_ipython_extension": "graphmodel.integrations.ipython",
}

__all__ = [
    "CompileError",
    "CompiledModel",
    "Diagnostic",
    "ExportReport",
    "ExtractReport",
    "Feature",
    "FeatureDataset",
    "FreezeUntil",
    "HeadParams",
    "InferenceModel",
    "LoadReport",
    "ModelGraph",
    "ModelSpec",
    "PipelineSplit",
    "ProbeReport",
    "ProbeResult",
    "Span",
    "TensorInfo",
    "TrunkFamily",
    "build_graph",
    "compile",
    "diff",
    "draw",
    "export",
    "export_weights",
    "extract",
    "fused_cross_entropy",
    "load",
    "load_spec",
    "load_weights",
    "materialise",
    "optimize_for_inference",
    "param_groups",
    "probe",
    "profile",
    "register_head",
    "register_per_sample",
    "register_trunk",
    "save",
    "shard_plan",
    "shard_table",
    "split_frozen",
    "split_pipeline",
    "torch_compile",
    "update_teacher",
]


def _display(shown: Any) -> dict[str, str]:
    """What notebooks show; drawing is loaded when somebody looks."""
    bundle: dict[str, str] = import_module("graphmodel.visualize").mimebundle(shown)
    return bundle


_register_display(_display)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module `graphmodel` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
