"""The passes in their order; a new pass is one file and one entry here."""

from __future__ import annotations

from graphmodel.passes.batch_inputs import BatchInputs
from graphmodel.passes.channels_last import ChannelsLast
from graphmodel.passes.checkpoint import Checkpoint
from graphmodel.passes.fold_batchnorm import FoldBatchnorm
from graphmodel.passes.freeze import Freeze
from graphmodel.passes.fuse_heads import FuseHeads
from graphmodel.passes.manager import Pass
from graphmodel.passes.merge_calls import MergeCalls
from graphmodel.passes.prune import Prune
from graphmodel.passes.set_memory_format import SetMemoryFormat

PIPELINE: tuple[Pass, ...] = (Prune(), MergeCalls(), Freeze(), Checkpoint())
"""Passes that make the model graph: what the model is to its users, slices, pictures and weights included."""

OPTIMIZATIONS: tuple[Pass, ...] = (BatchInputs(), FuseHeads(), SetMemoryFormat(), ChannelsLast(), FoldBatchnorm())
"""Passes that turn the model graph into the graph that the code is written from. Names, parameters and buffers stay."""
