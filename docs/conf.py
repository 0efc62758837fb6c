"""Sphinx configuration: `sphinx-build docs build/docs` after `pip install -e '.[docs]'`."""

project = "graphmodel"
author = "The graphmodel authors"
extensions = ["myst_parser"]
exclude_patterns = ["generate.py", "passes.md"]
html_theme = "furo"
html_static_path = ["_static"]
myst_heading_anchors = 3
