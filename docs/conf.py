"""How Sphinx builds these pages: `sphinx-build -W docs docs/_build`, with the extra `docs` installed."""

project = "anyvisor"
copyright = "the anyvisor authors"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "anyvisor"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
