"""The pictures of a report, each drawn from facts into axes or a figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import molecule
from .facts import Accuracy, Density, Deviations, Facts, Histogram, Spread, Worst
from .style import FIRST, GRID, INK, MUTED, ORBITS, PLAIN, SECOND
from .text import deviation_summary, unit_of

# Above this number of atoms, their labels leave out the numbers.
_MANY_ATOMS = 30
# Pairs whose weights are drawn: the heaviest and the lightest.
_N_WEIGHTS = 24


@dataclass(frozen=True)
class Picture:
    """A picture: its name, what to call it, what it shows in a sentence, its height in inches, and who draws it."""

    name: str
    title: str
    caption: str
    height: float
    draw: Callable[[Any], None]


def pictures(facts: Facts) -> list[Picture]:
    """Return the pictures that the facts have something for, in the order of the page."""
    found = []
    if facts.molecule.geometry is not None:
        found.append(_molecule(facts))
    if facts.weights:
        found.append(_weights(facts))
    if len(facts.search) > 1:
        found.append(_search(facts))
    if facts.accuracy is not None:
        found += _accuracy(facts, facts.accuracy)
    if len(facts.learning_curve) > 1:
        found.append(_learning_curve(facts))
    return found


def orbit_colours(facts: Facts) -> list[str]:
    """Return the colour of each atom by what permutations do with it."""
    colours = [PLAIN] * len(facts.molecule.z)
    for i, atoms in enumerate(facts.molecule.orbits):
        for atom in atoms:
            colours[atom] = ORBITS[i % len(ORBITS)]
    return colours


def atom_labels(facts: Facts) -> list[str]:
    """Return what to write on atoms."""
    symbols = facts.molecule.symbols
    if len(symbols) > _MANY_ATOMS:
        return list(symbols)
    return [f"{symbol}{number}" for number, symbol in enumerate(symbols)]


# ---- molecule ---------------------------------------------------------------------------------------------------


def _molecule(facts: Facts) -> Picture:
    geometry = facts.molecule.geometry
    assert geometry is not None

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        molecule.draw(axes, geometry, facts.molecule.z, orbit_colours(facts), atom_labels(facts), facts.origin.cell)
        molecule.draw_scale(axes, facts.origin.r_unit)

    if facts.molecule.orbits:
        caption = "Atoms of one colour are exchanged by the permutations; grey ones stay."
        if len(facts.molecule.orbits) > len(ORBITS):
            caption += f" After {len(ORBITS)} sets the colours begin anew."
    elif facts.origin.n_perms > 1:
        caption = "The file holds permutations of pairs of atoms only, so that they are not shown."
    else:
        caption = "The model has no permutations but the identity."
    caption += f" Drawn is {facts.molecule.geometry_from}."
    return Picture("molecule", "Symmetry", caption, 3.6, draw)


def _weights(facts: Facts) -> Picture:
    half = _N_WEIGHTS // 2
    few = len(facts.weights) <= _N_WEIGHTS
    shown = facts.weights if few else [*facts.weights[:half], *facts.weights[-half:]]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        weights = [each.weight for each in shown]
        axes.barh(range(len(shown)), [weight - 1 for weight in weights], left=1, color=FIRST, height=0.7)
        axes.axvline(1, color=MUTED, linewidth=1)
        axes.set_yticks(range(len(shown)), [each.pairs for each in shown], fontsize=7)
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.set_xlabel("weight [no unit]")
        if not few:
            axes.axhline(half - 0.5, color=GRID, linewidth=1)

    which = "All pairs" if few else f"The {half} heaviest and {half} lightest of {len(facts.weights)} pairs"
    caption = f"{which} that permutations exchange; 1 is the geometric mean. A heavy pair tells geometries apart more."
    return Picture("weights", "Learned weights of pairs", caption, 1.0 + 0.16 * len(shown), draw)


# ---- errors by parameters ---------------------------------------------------------------------------------------


def _search(facts: Facts) -> Picture:
    trials = [trial for trial in facts.search if trial.f_rmse is not None]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        sigs = [trial.sig for trial in trials]
        axes.plot(sigs, [trial.f_rmse for trial in trials], "o-", color=FIRST, label="RMSE", markersize=5)
        axes.plot(sigs, [trial.f_mae for trial in trials], "s--", color=SECOND, label="MAE", markersize=4.5)
        axes.axvline(facts.origin.sig, color=MUTED, linewidth=1, linestyle=":")
        axes.set_xlabel("length scale sigma [no unit]")
        axes.set_ylabel(f"validation error of forces\n[{unit_of(facts.origin.f_unit)}]")
        axes.set_ylim(bottom=0)
        axes.legend(loc="best")

    caption = f"Errors on the validation points; the dotted line is the sigma of this model, {facts.origin.sig:g}."
    return Picture("search", "Search for sigma", caption, 2.8, draw)


def _learning_curve(facts: Facts) -> Picture:
    def draw(figure: Any) -> None:
        draw_learning_curve(figure, facts.learning_curve)

    caption = "Errors on the same test points by the number of training points; both axes are logarithmic."
    has_energies = all(point.e_mae for point in facts.learning_curve)
    return Picture("learning-curve", "Learning curve", caption, 4.6 if has_energies else 2.8, draw)


def draw_learning_curve(figure: Any, points: Sequence[Any]) -> None:
    """Draw the errors of forces, and of energies where there are any, by the number of training points."""
    first = points[0]
    f_unit = f"{first.e_unit}/{first.r_unit}" if first.e_unit and first.r_unit else ""
    panels = [("forces", "f_mae", "f_rmse", f_unit)]
    if all(point.e_mae for point in points):
        panels.append(("energies", "e_mae", "e_rmse", first.e_unit))
    sizes = [point.n_train for point in points]
    every = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, mae, rmse, unit) in zip(every, panels, strict=True):
        axes.loglog(sizes, [getattr(point, rmse) for point in points], "o-", color=FIRST, label="RMSE", markersize=5)
        axes.loglog(sizes, [getattr(point, mae) for point in points], "s--", color=SECOND, label="MAE", markersize=4.5)
        axes.set_ylabel(f"error of {name}\n[{unit_of(unit)}]")
        _plain_log_ticks(axes.yaxis, [getattr(point, key) for point in points for key in (mae, rmse)])
        axes.legend(loc="best")
    every[-1].set_xlabel("training points [number]")
    every[-1].set_xticks(_spaced(sizes), [f"{size:,}" for size in _spaced(sizes)])
    every[-1].set_xticks([], minor=True)


def _spaced(sizes: Sequence[int]) -> list[int]:
    """Return those sizes that have room for a label each on a logarithmic axis."""
    span = math.log(sizes[-1] / sizes[0])
    kept = [sizes[-1]]
    for size in reversed(sizes[:-1]):
        if math.log(kept[-1] / size) > 0.13 * span:
            kept.append(size)
    return kept[::-1]


def _plain_log_ticks(axis: Any, values: Sequence[float]) -> None:
    """Label a logarithmic axis at 1, 2 and 5 times powers of ten, in plain numbers, with three labels at least."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = min(values), max(values)
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 100 else (1,)
    if high / low < 2.5:
        steps = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)  # type: ignore[assignment]
    ticks = [step * 10.0**e for e in exponents for step in steps if low / 1.3 <= step * 10.0**e <= high * 1.3]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


# ---- accuracy ---------------------------------------------------------------------------------------------------


def _accuracy(facts: Facts, accuracy: Accuracy) -> list[Picture]:
    f_unit, e_unit = unit_of(facts.origin.f_unit), unit_of(facts.origin.e_unit)
    found = [
        Picture(
            "forces",
            "Forces",
            "Components of forces, predicted against reference; the darker a square, the more of them (logarithmic).",
            3.9,
            lambda figure: _draw_density(figure.subplots(), accuracy.f_density, "force component", f_unit),
        )
    ]
    if accuracy.e_density is not None:
        density = accuracy.e_density
        found.append(
            Picture(
                "energies",
                "Energies",
                "Energies relative to the mean of the references, predicted against reference.",
                3.9,
                lambda figure: _draw_density(figure.subplots(), density, "energy", e_unit),
            )
        )
    found.append(
        Picture(
            "force-errors",
            "Errors of forces",
            f"Components. {accuracy.f_histogram.n_outside:,} are farther out.",
            2.6,
            lambda figure: _draw_histogram(figure.subplots(), accuracy.f_histogram, "force component", f_unit),
        )
    )
    if accuracy.e_histogram is not None:
        histogram = accuracy.e_histogram
        found.append(
            Picture(
                "energy-errors",
                "Errors of energies",
                f"{histogram.n_outside:,} are farther out.",
                2.6,
                lambda figure: _draw_histogram(figure.subplots(), histogram, "energy", e_unit),
            )
        )
    caption = "Length of the error of the force on an atom: box from a quarter to three quarters, line at the median, "
    caption += "whiskers from 5 to 95 per cent, dot at the mean."
    found.append(
        Picture(
            "elements",
            "Errors by element",
            f"{caption} In brackets the number of atoms.",
            1.1 + 0.42 * len(accuracy.elements),
            lambda figure: _draw_spreads(
                figure.subplots(), [f"{s.label} ({s.n_atoms})" for s in accuracy.elements], accuracy.elements, f_unit
            ),
        )
    )
    found.append(
        Picture(
            "atoms",
            "Errors by atom",
            f"{caption} Atoms are numbered from 0.",
            1.1 + 0.165 * len(accuracy.atoms),
            lambda figure: _draw_spreads(figure.subplots(), [s.label for s in accuracy.atoms], accuracy.atoms, f_unit),
        )
    )
    if accuracy.deviations is not None:
        found.append(_deviations(accuracy.deviations, f_unit))
    if accuracy.worst:
        found.append(_worst(facts, accuracy.worst))
    return found


def _deviations(deviations: Deviations, unit: str) -> Picture:
    def draw(figure: Any) -> None:
        axes = figure.subplots()
        std, error = np.transpose(deviations.parts)
        end = 1.08 * max(*std, *error) or 1.0
        axes.plot([0, end], [0, end], color=MUTED, linewidth=0.9)
        axes.plot(std, error, "o-", color=FIRST, markersize=5)
        axes.set_xlim(0, end)
        axes.set_ylim(0, end)
        axes.set_xlabel(f"predicted standard deviation [{unit}]")
        axes.set_ylabel(f"true error of forces\n[{unit}]")
        _same_ticks(axes)

    caption = (
        f"Geometries from small to large deviation in {len(deviations.parts)} equal parts: root mean squares of "
        f"components. On the grey line deviations are right. {deviation_summary(deviations)}"
    )
    return Picture("deviations", "Standard deviations", caption, 2.9, draw)


def _draw_density(axes: Any, density: Density, what: str, unit: str) -> None:
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba

    side = (density.high - density.low) / density.n
    most = math.log1p(max(cell[2] for cell in density.cells))
    squares, colours = [], []
    for i, j, count in density.cells:
        x, y = density.low + i * side, density.low + j * side
        squares.append([(x, y), (x + side, y), (x + side, y + side), (x, y + side)])
        colours.append(to_rgba(FIRST, 0.15 + 0.85 * math.log1p(count) / most))
    axes.plot([density.low, density.high], [density.low, density.high], color=MUTED, linewidth=0.9, zorder=1)
    axes.add_collection(PolyCollection(squares, facecolors=colours, edgecolors="none", zorder=2))
    axes.set_xlim(density.low, density.high)
    axes.set_ylim(density.low, density.high)
    axes.set_aspect("equal")
    axes.set_xlabel(f"reference {what} [{unit}]")
    axes.set_ylabel(f"predicted {what} [{unit}]")
    _same_ticks(axes)


def _same_ticks(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def _draw_histogram(axes: Any, histogram: Histogram, what: str, unit: str) -> None:
    from matplotlib.ticker import MaxNLocator

    edges = np.linspace(histogram.low, histogram.high, len(histogram.counts) + 1)
    axes.stairs(histogram.counts, edges, fill=True, color=FIRST, alpha=0.75)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlim(histogram.low, histogram.high)
    axes.set_xlabel(f"error of {what}, predicted - reference [{unit}]")
    axes.set_ylabel("count [number]")
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))


def _draw_spreads(axes: Any, labels: Sequence[str], spreads: Sequence[Spread], unit: str) -> None:
    from matplotlib.ticker import MaxNLocator

    many = len(spreads) > 12
    half = 0.36
    for row, spread in enumerate(spreads):
        axes.plot([spread.p5, spread.p95], [row, row], color=MUTED, linewidth=0.9, zorder=2)
        width = spread.p75 - spread.p25
        axes.barh(row, width, left=spread.p25, height=2 * half, color=FIRST, alpha=0.55, zorder=3)
        axes.plot([spread.p50, spread.p50], [row - half, row + half], color=INK, linewidth=1.2, zorder=4)
        axes.plot(spread.mean, row, "o", color=SECOND, markersize=3.2 if many else 4.2, zorder=5)
    axes.set_yticks(range(len(spreads)), labels, fontsize=7.5 if many else 8.5)
    axes.set_ylim(len(spreads) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"error of the force vector [{unit}]")
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


# ---- worst geometries -------------------------------------------------------------------------------------------


def _worst(facts: Facts, worst: Sequence[Worst]) -> Picture:
    rows = math.ceil(len(worst) / 2)

    def draw(figure: Any) -> None:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import LinearSegmentedColormap, Normalize, to_hex

        shades = LinearSegmentedColormap.from_list("errors", ["#fff7ec", "#fdbb70", "#d55e00", "#7a2d00"])
        scale = Normalize(0, max(max(each.atoms) for each in worst))
        grid = figure.subplots(rows, 2, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, each in zip(grid.flat, worst, strict=False):
            colours = [to_hex(shades(scale(error))) for error in each.atoms]
            molecule.draw(axes, each.geometry, facts.molecule.z, colours, facts.molecule.symbols, facts.origin.cell)
            axes.set_title(f"geometry {each.number:,}", fontsize=8.5, loc="center", fontweight="normal")
        bar = figure.colorbar(
            ScalarMappable(scale, shades), ax=list(grid.flat), orientation="horizontal", aspect=40, fraction=0.05
        )
        bar.set_label(f"error of the force on the atom [{unit_of(facts.origin.f_unit)}]")
        bar.outline.set_edgecolor(GRID)

    caption = "The geometries with the largest errors of forces, by their number in the dataset, counted from 0."
    return Picture("worst", "Worst geometries", caption, 0.9 + 2.2 * rows, draw)
