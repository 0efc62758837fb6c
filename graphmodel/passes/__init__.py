"""Passes: pure functions from graph to graph, one verb-named file each, run in the order of `PIPELINE`."""
