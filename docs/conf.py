"""The Sphinx configuration of the documentation."""

from __future__ import annotations

from pytest_tempres import __version__

project = "pytest-tempres"
author = "pytest-tempres contributors"
copyright = "2026, pytest-tempres contributors"  # noqa: A001 -- Sphinx requires this name
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"pytest-tempres {release}"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
