"""Sphinx configuration: `sphinx-build docs build/docs` after `pip install -e '.[docs]'`."""

project = "graphmodel"
author = "The graphmodel authors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["generate.py"]
nitpicky = False
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_use_ivar = True  # an attribute that is documented twice is one too many
default_role = "code"  # single backticks in docstrings
html_theme = "furo"
html_static_path = ["_static"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # `scripts/notebooks.py` stores the outputs, and a test executes them
