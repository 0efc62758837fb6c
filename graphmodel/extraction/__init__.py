"""Frozen features on disk: extraction to a zarr store, and datasets that read it."""

from graphmodel.extraction.features import FeatureDataset
from graphmodel.extraction.run import ExtractReport, Progress, extract

__all__ = ["ExtractReport", "FeatureDataset", "Progress", "extract"]
