"""The page: one file with its styles and pictures in it, without scripts, that asks nothing of a network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files

from . import text
from .facts import Facts
from .pictures import Picture, pictures
from .style import ORBITS
from .svg import inline_svg

_PAPERS = (
    ("https://doi.org/10.1126/sciadv.1603015", "GDML: Sci. Adv. 3, e1603015 (2017)"),
    ("https://doi.org/10.1038/s41467-018-06169-2", "sGDML: Nat. Commun. 9, 3887 (2018)"),
)


def page(facts: Facts) -> str:
    """Return the page."""
    drawn = {picture.name: picture for picture in pictures(facts)}
    sections = [
        ("model", "Model", _model(facts)),
        ("symmetry", "Atoms and symmetry", _symmetry(facts, drawn)),
        ("weights", "Weights of pairs", _figures(drawn, ("weights",))),
        ("accuracy", "Accuracy", _accuracy(facts, drawn)),
        ("deviations", "Standard deviations", _deviations(facts, drawn)),
        ("worst-geometries", "Worst geometries", _worst(facts, drawn)),
        ("sigma", "Search for sigma", _search(facts, drawn)),
        ("curve", "Learning curve", _curve(facts, drawn)),
        ("timing", "Speed", _facts_table(text.timing_rows(facts))),
    ]
    sections = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in sections)
    body = "".join(f'<section id="{name}"><h2>{title}</h2>{html}</section>\n' for name, title, html in sections)
    style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    # "<" within the facts would end the element.
    data = facts.to_json().replace("<", "\\u003c")
    name = escape(text.title(facts))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="fastgdml {escape(facts.version)}">
<link rel="icon" href="data:,">
<title>{name} - fastgdml</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{name}</h1>
<p class="small">sGDML force field, {escape(facts.origin.theory)}. Report of {escape(facts.made)}.</p>
{_tiles(facts)}
</header>
<nav aria-label="Sections">{links}</nav>
<main>
{body}</main>
<footer>
<p>Made by fastgdml {escape(facts.version)}. The method: {_papers()}.</p>
</footer>
<script type="application/json" id="facts">{data}</script>
</body>
</html>
"""


def _papers() -> str:
    return "; ".join(f'<a href="{address}" rel="noreferrer">{escape(name)}</a>' for address, name in _PAPERS)


def _tiles(facts: Facts) -> str:
    tiles = "".join(
        f'<div><dt>{escape(label)}</dt><dd>{escape(value)}<span class="unit">{escape(unit)}</span></dd></div>'
        for label, value, unit in text.headline(facts)
    )
    return f'<dl class="tiles">{tiles}</dl>'


def _facts_table(rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return ""
    lines = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows)
    return f'<table class="facts"><tbody>{lines}</tbody></table>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], left: frozenset[int] = frozenset({0})) -> str:
    """Return a table; the columns of `left` are text, the others numbers."""
    kinds = ["" if i in left else ' class="n"' for i in range(len(head))]
    top = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for kind, name in zip(kinds, head, strict=True))
    lines = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def _figures(drawn: dict[str, Picture], names: Sequence[str]) -> str:
    found = "".join(_one(drawn, name, title=True) for name in names)
    return f'<div class="pictures">{found}</div>' if found else ""


# ---- sections ---------------------------------------------------------------------------------------------------


def _model(facts: Facts) -> str:
    return _facts_table(text.origin_rows(facts))


def _symmetry(facts: Facts, drawn: dict[str, Picture]) -> str:
    html = ""
    if facts.molecule.orbits:
        html += "<p>Atoms that permutations exchange, numbered from 0:</p>"
        html += f'<table class="facts"><tbody>{_orbit_lines(facts)}</tbody></table>'
    cycles = facts.molecule.cycles
    if cycles:
        n_more = facts.origin.n_perms - 1 - len(cycles)
        more = f"\n... and {n_more:,} more" if n_more > 0 else ""
        lines = escape("\n".join(cycles)) + more
        html += f"<details><summary>Permutations as cycles</summary><pre>{lines}</pre></details>"
    if "molecule" not in drawn:
        html += f"<p>There is no drawing: {escape(facts.molecule.geometry_from)}.</p>"
    return f'<div class="pictures">{_one(drawn, "molecule")}<div>{html}</div></div>'


def _orbit_lines(facts: Facts) -> str:
    lines = ""
    for i, (symbol, atoms) in enumerate(text.orbit_rows(facts)):
        swatch = f'<span class="swatch" style="background:{ORBITS[i % len(ORBITS)]}"></span>'
        lines += f'<tr><th scope="row">{swatch}{escape(symbol)}</th><td>{escape(atoms)}</td></tr>'
    return lines


def _one(drawn: dict[str, Picture], name: str, title: bool = False) -> str:
    if name not in drawn:
        return ""
    heading = f"<h3>{escape(drawn[name].title)}</h3>" if title else ""
    return f"<figure>{heading}{inline_svg(drawn[name])}<figcaption>{escape(drawn[name].caption)}</figcaption></figure>"


def _accuracy(facts: Facts, drawn: dict[str, Picture]) -> str:
    rows = text.error_rows(facts)
    html = ""
    if facts.accuracy is None:
        html += "<p>The model was not compared with a dataset; give one to see errors.</p>"
    else:
        accuracy = facts.accuracy
        html += (
            f"<p>Compared on {text.share(accuracy)} geometries of the dataset "
            f"{escape(accuracy.dataset)} that the model has not seen (fingerprint {escape(accuracy.fingerprint)}).</p>"
        )
    if rows:
        html += _table(("", "MAE", "RMSE", "Mean deviation", "Unit"), rows, frozenset({0, 4}))
    names = ("forces", "energies", "force-errors", "energy-errors", "elements", "atoms")
    return html + _figures(drawn, names)


def _deviations(facts: Facts, drawn: dict[str, Picture]) -> str:
    rows = text.deviation_rows(facts)
    if not rows:
        return ""
    _, f_unit = text.units(facts)
    table = _table(("Part", f"Deviation [{f_unit}]", f"Error [{f_unit}]"), rows)
    return f'<div class="pictures">{_one(drawn, "deviations")}<div>{table}</div></div>'


def _worst(facts: Facts, drawn: dict[str, Picture]) -> str:
    rows = text.worst_rows(facts)
    if not rows:
        return ""
    e_unit, f_unit = text.units(facts)
    head = ("Geometry", f"Force RMSE [{f_unit}]", f"Energy error [{e_unit}]", f"Largest, by atom [{f_unit}]")
    geometries = "".join(
        f"<details><summary>Geometry {escape(row[0])} as XYZ</summary>"
        f"<pre>{escape(text.xyz_of(facts, i))}</pre></details>"
        for i, row in enumerate(rows)
    )
    return f'<div class="pictures">{_one(drawn, "worst")}<div>{_table(head, rows, frozenset())}{geometries}</div></div>'


def _search(facts: Facts, drawn: dict[str, Picture]) -> str:
    if not facts.search:
        return f"<p>{escape(text.no_search(facts))}</p>"
    e_unit, f_unit = text.units(facts)
    head = ("Sigma", f"Force MAE [{f_unit}]", "RMSE", f"Energy MAE [{e_unit}]", "RMSE")
    table = _table(head, text.search_rows(facts), frozenset())
    return f'<div class="pictures">{_one(drawn, "search")}<div>{table}</div></div>'


def _curve(facts: Facts, drawn: dict[str, Picture]) -> str:
    if not facts.learning_curve:
        return ""
    e_unit, f_unit = text.units(facts)
    head = ("Points", "Sigma", f"Force MAE [{f_unit}]", "RMSE", f"Energy MAE [{e_unit}]", "RMSE", "Training [s]")
    table = _table(head, text.curve_rows(facts), frozenset())
    return f'<div class="pictures">{_one(drawn, "learning-curve")}</div>{table}'
