"""Settings of Sphinx: `sphinx-build -W -n docs build/docs`, with `pip install '.[docs]'`."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from fastgdml import __version__

project = "fastgdml"
author = "The fastgdml developers"
project_copyright = "The fastgdml developers, MIT licence"
version = release = __version__.split("+")[0]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "numpydoc",
    "sphinx_copybutton",
    "sphinxarg.ext",
    "mathml",
    "source_lines",
]
exclude_patterns = ["_ext", "_static", "_generated", "figures", "**/.ipynb_checkpoints"]

myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence"]
myst_heading_anchors = 4
html_math_renderer = "mathml"

# Notebooks are run when the documentation is built; a cell that raises is an error.
nb_execution_mode = os.environ.get("NB_EXECUTION_MODE", "cache")
nb_execution_timeout = 300  # of a cell; on an idle machine a whole notebook takes less than a minute
nb_execution_show_tb = True
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings say more: shapes and units
autodoc_mock_imports = [name for name in ("openmm",) if find_spec(name) is None]
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

nitpicky = True

copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True

html_theme = "pydata_sphinx_theme"
html_title = "fastgdml"
html_static_path = ["_static"]
html_css_files = ["fastgdml.css"]
html_show_sourcelink = False
html_theme_options = {
    "show_prev_next": True,
    "show_toc_level": 2,
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
    "navigation_with_keys": False,
    "show_version_warning_banner": False,
    "logo": {"text": "fastgdml"},
}


def make_figures(app: Sphinx) -> None:
    """Run each script in figures/ that is newer than its picture in _generated/."""
    here = Path(app.srcdir)
    (here / "_generated").mkdir(exist_ok=True)
    for script in sorted((here / "figures").glob("*.py")):
        picture = here / "_generated" / f"{script.stem}.svg"
        if not picture.exists() or picture.stat().st_mtime < script.stat().st_mtime:
            subprocess.run([sys.executable, str(script), str(picture)], check=True, cwd=here / "_generated")


def setup(app: Sphinx) -> None:
    """Pictures are made before pages are read."""
    app.connect("builder-inited", make_figures)
