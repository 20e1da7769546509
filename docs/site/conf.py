"""How Sphinx makes the site: `make docs` builds it into build/site, without the network.

The sources are the pages of the repository as they stand, so links work here and there: to other
pages and headings, to notebooks, and to source files, of which the site keeps copies.
"""

import pathlib
import shutil
import sys

SITE = pathlib.Path(__file__).parent
ROOT = SITE.parents[1]
sys.path[:0] = [str(SITE), str(ROOT)]

project = "keras_norms"
html_title = "keras_norms"
root_doc = "README"
include_patterns = [
    "*.md",
    "benchmarks/*.md",
    "custom_ops/*.md",
    "experiments/*.md",
    "examples/*.ipynb",
    "examples/*.md",
    "docs/**.md",
]
exclude_patterns = ["docs/site", "build", ".*"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "docstrings", "notebooks"]
myst_heading_anchors = 4  # As GitHub names them.

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_inherit_docstrings = False
autodoc_typehints = "none"
autodoc_preserve_defaults = True
maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Call arguments", "params_style"), "Reference"]

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_show_sphinx = False
pygments_style = "tango"
pygments_dark_style = "github-dark"


def setup(app):
    app.connect("source-read", add_navigation)
    app.connect("build-finished", name_the_start_page)


def add_navigation(app, docname, source):
    """The README is the start page; what GitHub need not see of it is in navigation.md."""
    if docname == root_doc:
        source[0] += (SITE / "navigation.md").read_text()


def name_the_start_page(app, exception):
    if exception is None:
        shutil.copy(app.outdir / "README.html", app.outdir / "index.html")
