"""The model graph: one node per call, built from a spec, every shape known before any weight exists."""
