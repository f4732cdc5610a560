"""How Sphinx builds the site: `make docs`. Nothing is fetched, and every warning is an error."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT), str(ROOT / "agents")]

import textrl_env  # noqa: E402 - found by the line above

project = "textrl-env"
author = "the textrl-env contributors"
copyright = f"{author}, MIT licence"
version = release = textrl_env.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "generators.mathml"]
exclude_patterns = ["generated/parts", "generators"]

smartquotes = False  # "--resume" is no dash
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = "textrl-env"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
html_math_renderer = "mathml"


def setup(app: Any) -> None:
    """Write the generated pages first, and let docstrings be Markdown."""
    from generators.api import as_rst
    from generators.write import write_pages

    app.connect("builder-inited", lambda _: write_pages())
    app.connect("autodoc-process-docstring", as_rst)
