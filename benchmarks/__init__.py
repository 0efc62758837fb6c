"""Benchmarks: `python -m benchmarks` runs the suite; `coverage.py` and `startup.py` are scripts of their own."""
