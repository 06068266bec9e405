"""Drawings of molecules: atoms as discs, from where they cover each other least."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..elements import radius_of
from ..errors import DataError
from ..types import Array
from ..units import length_factor
from .facts import Geometry
from .style import INK, MUTED, ON_COLOUR
from .text import unit_of

# Radius of a disc of carbon in its covalent radii.
_DISC = 0.58
# How far a cell may reach beyond the atoms, in parts of what they take up.
_CELL = 0.15
# Directions to look from.
_N_VIEWS = 300
# Letters: points a disc must measure for them, largest size, width of a letter in parts of its size.
_SMALLEST, _LARGEST, _LETTER = 6.0, 8.5, 0.66


def draw(
    axes: Any,
    geometry: Geometry,
    z: Sequence[int],
    colours: Sequence[str],
    labels: Sequence[str],
    cell: list[list[float]] | None = None,
) -> None:
    """Draw a geometry into axes, which become an empty frame with equal scales.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Where to draw.
    geometry : Geometry
        Positions and bonds.
    z : sequence of int
        Atomic numbers.
    colours : sequence of str
        Colour of each atom, #rrggbb.
    labels : sequence of str
        What to write on each atom where there is room.
    cell : list of 3 lists of 3 floats, optional
        Lattice vectors, whose parallelepiped is drawn.
    """
    from matplotlib.patches import Circle

    R = np.asarray(geometry.R)
    radii = disc_radii(geometry, z)
    turn = view(R, radii)
    centre = R.mean(axis=0)
    seen = (R - centre) @ turn.T
    axes.set_axis_off()
    axes.set_aspect("equal", anchor="N")
    margin = radii.max() * 1.25
    low, high = seen[:, :2].min(axis=0) - margin, seen[:, :2].max(axis=0) + margin
    if cell is not None:
        corners = _draw_cell(axes, np.asarray(cell), R, centre, turn)
        # Of a cell with much vacuum only what is near: the atoms are what is to be seen.
        room = _CELL * (high - low)
        low = np.minimum(low, np.maximum(corners.min(axis=0) - margin, low - room))
        high = np.maximum(high, np.minimum(corners.max(axis=0) + margin, high + room))
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    order = np.argsort(seen[:, 2])
    rank = np.empty(len(order), dtype=int)
    rank[order] = np.arange(len(order))
    for a, b in geometry.bonds:
        line = seen[[a, b], :2].T
        level = 2 + 2 * min(rank[a], rank[b]) / len(order)
        axes.plot(*line, color=MUTED, linewidth=2.2, solid_capstyle="round", zorder=level)
    for atom in order:
        level = 2 + (2 * rank[atom] + 1) / len(order)
        disc = Circle(seen[atom, :2], radii[atom], facecolor=colours[atom], edgecolor=INK, linewidth=0.8, zorder=level)
        axes.add_patch(disc)
    root = axes.get_figure(root=True)
    root.draw_without_rendering()
    points = axes.transData.transform([[0, 0], [1, 0]])
    scale = abs(points[1, 0] - points[0, 0]) * 72 / root.dpi
    for atom in order:
        hidden = rank > rank[atom]
        gap = np.linalg.norm(seen[hidden, :2] - seen[atom, :2], axis=1) - radii[hidden]
        size = min(_LARGEST, 1.7 * radii[atom] * scale / max(1.0, _LETTER * len(labels[atom]) / 0.9))
        free = gap.min(initial=np.inf) * scale
        if size < _SMALLEST or free < 0.5 * _LETTER * size * len(labels[atom]):
            continue
        colour = "#ffffff" if _is_dark(colours[atom]) else ON_COLOUR
        x, y = seen[atom, :2]
        axes.text(x, y, labels[atom], ha="center", va="center_baseline", fontsize=size, color=colour, zorder=6)


def disc_radii(geometry: Geometry, z: Sequence[int]) -> Array:
    """Return the radii of discs, in the unit of the geometry.

    They are in proportion to bonds, and differ less than covalent radii do, so that hydrogen has room for a label.
    """
    R = np.asarray(geometry.R)
    radii = np.array([radius_of(number) for number in z])
    distance = np.linalg.norm(R[:, None] - R, axis=2) / (radii[:, None] + radii)
    np.fill_diagonal(distance, np.inf)
    return _DISC * np.sqrt(radii * radius_of(6)) * float(np.median(distance.min(axis=1)))


def view(R: Array, radii: Array) -> Array:
    """Return the rotation, rows x, y and the direction to the viewer, in which discs cover each other least.

    Directions are tried that are spread evenly over half a sphere (a spiral of the golden angle). Between equal ones
    that with the broadest molecule wins. The longest extent becomes horizontal.
    """
    n = np.arange(_N_VIEWS)
    height = 1 - (n + 0.5) / _N_VIEWS
    angle = np.pi * (3 - np.sqrt(5)) * n
    ring = np.sqrt(1 - height**2)
    axes = np.linalg.svd(R - R.mean(axis=0))[2]
    directions = np.stack([ring * np.cos(angle), ring * np.sin(angle), height], axis=1) @ axes[[0, 1, 2]]
    differences = (R[:, None] - R)[np.triu_indices(len(R), 1)]
    touch = (radii[:, None] + radii)[np.triu_indices(len(R), 1)]
    best, best_score = directions[0], -np.inf
    for direction in directions:
        flat = differences - np.outer(differences @ direction, direction)
        distance = np.linalg.norm(flat, axis=1)
        overlap = np.maximum(0, 1 - distance / touch)
        score = float(-np.square(overlap).sum() + 0.02 * np.mean(distance / touch))
        if score > best_score:
            best, best_score = direction, score
    flat = R - R.mean(axis=0)
    flat = flat - np.outer(flat @ best, best)
    x = np.linalg.svd(flat)[2][0]
    x -= (x @ best) * best
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(best, x), best])


def draw_scale(axes: Any, r_unit: str) -> None:
    """Draw a bar as long as an Angstrom, or 2 Bohr or so, into the lower left corner; none if the unit is unknown."""
    if not r_unit:
        return
    try:
        size = length_factor("Ang", r_unit)
    except DataError:  # a unit that has no size here
        return
    length = 1.0 if size <= 1.2 else float(round(size)) if size < 100 else size
    label = f"{length:g} {unit_of(r_unit)}"
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    x, y = x0 + 0.02 * (x1 - x0), y0 - 0.03 * (y1 - y0)
    axes.plot([x, x + length], [y, y], color=INK, linewidth=1.6, solid_capstyle="butt", zorder=7)
    axes.text(x + length, y, f"  {label}", ha="left", va="center", fontsize=8, color=INK, zorder=7)
    axes.set_ylim(y0 - 0.09 * (y1 - y0), y1)


def _draw_cell(axes: Any, cell: Array, R: Array, centre: Array, turn: Array) -> Array:
    """Draw the edges of the cell, from the corner below the atoms; return its corners in the picture."""
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    shift = np.floor((R @ np.linalg.inv(cell)).min(axis=0) + 1e-6)
    seen = ((corners + shift) @ cell - centre) @ turn.T
    for a in range(8):
        for b in range(a + 1, 8):
            if abs(corners[a] - corners[b]).sum() == 1:
                axes.plot(*seen[[a, b], :2].T, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    return seen[:, :2]


def _is_dark(colour: str) -> bool:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue < 105
