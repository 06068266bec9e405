"""How pictures look: colours that the colour-blind can tell apart, and how matplotlib is set up.

The colours are the light ones. In a page each becomes a variable of CSS, which has another value in the dark
(`page.css`). M. Okabe and K. Ito, Color Universal Design, 2008.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import UsageError

INK, MUTED, GRID, PAPER = "#1b1f23", "#5f6870", "#d9dee2", "#fefefe"
FIRST, SECOND = "#0072b1", "#d45e00"
PLAIN = "#c3cad0"  # atoms that no permutation moves
# Of orbits, in this order.
ORBITS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2")

# What changes in the dark, by the name of the variable of CSS. Orbits stay: letters on them are always dark or white.
THEME = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper", FIRST: "first", SECOND: "second"}
ON_COLOUR = "#101010"

# Width of a picture in a page, in inches: that of a phone, so that letters are as large there as elsewhere.
WIDTH = 4.6

_RC: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text
    "pdf.fonttype": 42,
    "svg.hashsalt": "fastgdml",
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "none",
    "lines.linewidth": 1.6,
}
_SIZES = {"font.size", "axes.titlesize", "axes.labelsize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize"}


def matplotlib() -> Any:
    """Return matplotlib.

    Raises
    ------
    UsageError
        If it is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise UsageError(
            "Pictures take matplotlib: pip install 'fastgdml[report]'. Without it a report can be written as json or "
            "md (--format)."
        ) from None
    return matplotlib


@contextmanager
def styled(scale: float = 1.0) -> Iterator[None]:
    """Draw in this style, whatever the user's settings, with letters of `scale` times the size, in this context."""
    module = matplotlib()
    with module.rc_context():
        module.rcdefaults()
        module.rcParams.update({key: scale * value if key in _SIZES else value for key, value in _RC.items()})
        yield


def new_figure(height: float, width: float = WIDTH) -> Any:
    """Return an empty figure that no window shows; sizes are in inches."""
    matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.07, h_pad=0.05))
