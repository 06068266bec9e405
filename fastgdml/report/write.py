"""Reports in files: a page, pictures on paper or as an image, text."""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..learning_curve import CurvePoint
from ..npz import PDF, PICTURE, TEXT, replacing
from . import text
from .facts import Facts
from .pictures import Picture, draw_learning_curve, pictures
from .style import PAPER, WIDTH, matplotlib, new_figure, styled

# Sizes of a page of paper (A4) and its margin, in inches.
_A4 = (8.27, 11.69)
_MARGIN = 0.6
# Two pictures beside each other are narrower there than in the page; their proportions stay.
_SCALE = (_A4[0] - 2 * _MARGIN) / (2 * WIDTH)
# Height of the title of a picture and of the gap below it.
_GAP = 0.45


def format_of(path: str | os.PathLike[str], asked: str | None = None) -> str:
    """Return the format of a report: what is asked for, or what the name of the file says.

    Raises
    ------
    UsageError
        If neither tells.
    """
    if asked is not None:
        return asked
    suffix = Path(path).suffix.lower().lstrip(".")
    name = {"htm": "html", "markdown": "md"}.get(suffix, suffix)
    if name not in FORMATS:
        raise UsageError(
            f"Which format has '{path}'? Let its name end in {', '.join('.' + each for each in FORMATS)}, or give "
            "--format."
        )
    return name


def write(facts: Facts, path: str | os.PathLike[str], format: str | None = None) -> None:
    """Write a report; the file is either the old one or the complete new one.

    Parameters
    ----------
    facts : Facts
        What to report.
    path : path-like
        The file.
    format : {'html', 'png', 'pdf', 'json', 'md'}, optional
        By default what the name of the file says.

    Raises
    ------
    UsageError
        If the format is unknown, or needs matplotlib and that is not installed.
    FileFormatError
        If there is a file of another kind, or the file cannot be written.
    """
    make, kind = FORMATS[format_of(path, format)]
    content = make(facts)
    with replacing(path, kind) as file:
        file.write(content)


def write_learning_curve(points: Sequence[CurvePoint], path: str | os.PathLike[str]) -> None:
    """Draw a learning curve into a file, .svg, .png or .pdf.

    Raises
    ------
    UsageError
        If the name ends otherwise, or matplotlib is not installed.
    FileFormatError
        If there is a file of another kind, or the file cannot be written.
    """
    kinds = {"svg": TEXT, "png": PICTURE, "pdf": PDF}
    format = Path(path).suffix.lower().lstrip(".")
    if format not in kinds:
        raise UsageError(f"The name of the picture '{path}' must end in .svg, .png or .pdf.")
    file = io.BytesIO()
    with styled():
        figure = new_figure(4.6 if all(point.e_mae for point in points) else 2.8)
        figure.set_facecolor(PAPER)
        draw_learning_curve(figure, points)
        metadata = {"svg": {"Date": None}, "png": {"Software": None}, "pdf": {"CreationDate": None}}[format]
        figure.savefig(file, format=format, dpi=200, metadata=metadata)
    with replacing(path, kinds[format]) as target:
        target.write(file.getvalue())


def _html(facts: Facts) -> bytes:
    from .page import page

    return page(facts).encode()


def _json(facts: Facts) -> bytes:
    return (facts.to_json() + "\n").encode()


def _png(facts: Facts) -> bytes:
    """Draw all pictures on one image, two side by side."""
    columns = _columns(pictures(facts))
    head = 1.0
    body = max(1.0, *(sum(picture.height + _GAP for picture in column) for column in columns))
    with styled():
        figure = new_figure(head + body, 2 * (WIDTH + 0.3))
        figure.set_facecolor(PAPER)
        top, below = figure.subfigures(2, 1, height_ratios=[head, body])
        line = ", ".join(f"{label} {value} {unit}" for label, value, unit in text.headline(facts)[:3])
        top.text(0.02, 0.55, text.title(facts), fontsize=16, fontweight="bold")
        top.text(0.02, 0.2, line, fontsize=10)
        _place(below, columns, body)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
        return file.getvalue()


def _pdf(facts: Facts) -> bytes:
    """Draw text and pictures on pages of paper."""
    matplotlib()
    from matplotlib.backends.backend_pdf import PdfPages

    file = io.BytesIO()
    with (
        styled(),
        PdfPages(file, metadata={"Title": text.title(facts), "Creator": "fastgdml", "CreationDate": None}) as pdf,
    ):
        pdf.savefig(_first_page(facts))
        for rows in _paper_pages(facts):
            pdf.savefig(rows)
    return file.getvalue()


def _markdown(facts: Facts) -> bytes:
    parts = [f"# {text.title(facts)}", f"Report of {facts.made}, fastgdml {facts.version}."]
    e_unit, f_unit = text.units(facts)
    errors = ("", "MAE", "RMSE", "Mean deviation", "Unit")
    curve = ("Points", "Sigma", f"Force MAE [{f_unit}]", "RMSE", f"Energy MAE [{e_unit}]", "RMSE", "Training [s]")
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = (
        ("Model", ("", ""), text.origin_rows(facts)),
        ("Atoms that permutations exchange, numbered from 0", ("Element", "Atoms"), text.orbit_rows(facts)),
        ("Weights of pairs", ("Pairs", "Weight"), [(each.pairs, f"{each.weight:.3g}") for each in facts.weights]),
        ("Accuracy", errors, text.error_rows(facts)),
        ("Standard deviations", ("Part", f"Deviation [{f_unit}]", f"Error [{f_unit}]"), text.deviation_rows(facts)),
        (
            "Worst geometries",
            ("Geometry", f"Force RMSE [{f_unit}]", f"Energy error [{e_unit}]", f"Largest, by atom [{f_unit}]"),
            text.worst_rows(facts),
        ),
        (
            "Search for sigma",
            ("Sigma", f"Force MAE [{f_unit}]", "RMSE", f"Energy MAE [{e_unit}]", "RMSE"),
            text.search_rows(facts),
        ),
        ("Learning curve", curve, text.curve_rows(facts)),
        ("Speed", ("", ""), text.timing_rows(facts)),
    )
    for title, head, rows in tables:
        if rows:
            lines = [head, ["---"] * len(head), *rows]
            parts.append(f"## {title}\n\n" + "\n".join("| " + " | ".join(_cells(line)) + " |" for line in lines))
    return ("\n\n".join(parts) + "\n").encode()


def _cells(line: Sequence[str]) -> list[str]:
    return [cell.replace("|", "\\|").replace("\n", " ") for cell in line]


# ---- paper ------------------------------------------------------------------------------------------------------


def _columns(drawn: Sequence[Picture]) -> list[list[Picture]]:
    """Divide pictures among two columns, each to the one that is shorter."""
    columns: list[list[Picture]] = [[], []]
    for picture in drawn:
        min(columns, key=lambda column: sum(each.height + _GAP for each in column)).append(picture)
    return columns


def _pages(drawn: Sequence[Picture], room: float) -> list[list[list[Picture]]]:
    """Divide pictures in their order among pages, which have room for so many inches in each of two columns."""
    pages: list[list[list[Picture]]] = []
    for picture in drawn:
        for column in pages[-1] if pages else []:
            if sum(each.height + _GAP for each in column) + picture.height + _GAP <= room:
                column.append(picture)
                break
        else:
            pages.append([[picture], []])
    return pages


def _place(figure: Any, columns: Sequence[Sequence[Picture]], height: float) -> None:
    """Draw columns of pictures into a figure of this height in inches, from the top."""
    for part, column in zip(figure.subfigures(1, len(columns)), columns, strict=True):
        if not column:
            continue
        heights = [picture.height + _GAP for picture in column]
        rest = max(height - sum(heights), 1e-3)
        cells = part.subfigures(len(column) + 1, 1, height_ratios=[*heights, rest])
        for cell, picture in zip(cells, column, strict=False):
            cell.suptitle(picture.title, fontsize="large", fontweight="bold", x=0.04, ha="left")
            picture.draw(cell)


def _paper_pages(facts: Facts) -> Iterator[Any]:
    room = _A4[1] - 2 * _MARGIN
    for columns in _pages(pictures(facts), room / _SCALE):
        figure = new_figure(_A4[1], _A4[0])
        _, middle, _ = figure.subfigures(3, 1, height_ratios=[_MARGIN, room, _MARGIN])
        _, inner, _ = middle.subfigures(1, 3, width_ratios=[_MARGIN, _A4[0] - 2 * _MARGIN, _MARGIN])
        with styled(_SCALE):
            _place(inner, columns, room / _SCALE)
        yield figure


def _first_page(facts: Facts) -> Any:
    figure = new_figure(_A4[1], _A4[0])
    y = _A4[1] - _MARGIN - 0.2

    def put(x: float, line: str, size: float = 9, weight: str = "normal") -> None:
        figure.text((_MARGIN + x) / _A4[0], y / _A4[1], line, fontsize=size, fontweight=weight)

    put(0, text.title(facts), 16, "bold")
    y -= 0.35
    put(0, f"sGDML force field. Report of {facts.made}, fastgdml {facts.version}.")
    blocks: list[tuple[str, list[tuple[str, str]]]] = [
        ("Model", text.origin_rows(facts)),
        ("Errors (MAE / RMSE)", [(row[0], f"{row[1]} / {row[2]} {row[4]}") for row in text.error_rows(facts)]),
        ("Speed", text.timing_rows(facts)),
        ("Atoms that permutations exchange, numbered from 0", text.orbit_rows(facts)),
    ]
    for title, rows in blocks:
        lines = [(name if i == 0 else "", line) for name, value in rows for i, line in enumerate(_wrapped(value, 64))]
        if not lines or y < _MARGIN + 1:
            continue
        y -= 0.45
        put(0, title, 11, "bold")
        for name, line in lines:
            y -= 0.21
            if y < _MARGIN:
                break
            put(0, name)
            put(2.5, line)
    return figure


def _wrapped(value: str, width: int) -> list[str]:
    return textwrap.wrap(value, width) or [""]


Maker = Callable[[Facts], bytes]
FORMATS: dict[str, tuple[Maker, str]] = {
    "html": (_html, TEXT),
    "png": (_png, PICTURE),
    "pdf": (_pdf, PDF),
    "json": (_json, TEXT),
    "md": (_markdown, TEXT),
}
