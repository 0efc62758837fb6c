"""Checkpoints in and out: reading without running code, inferring the key map, loading, exporting."""
