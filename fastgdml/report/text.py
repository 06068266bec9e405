"""What a report says in words and tables, for all formats."""

from __future__ import annotations

import re

from .facts import Accuracy, Deviations, Facts, Origin, Quantity


def title(facts: Facts) -> str:
    """Return what the report is about."""
    name = facts.origin.name
    return f"{facts.origin.formula}" if name in ("", "unknown") else f"{name} ({facts.origin.formula})"


def number(value: float | None, unit: str = "") -> str:
    """Return a number with four digits and its unit; a dash for None."""
    if value is None:
        return "-"
    digits = f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return f"{digits} {unit}".rstrip()


def units(facts: Facts) -> tuple[str, str]:
    """Return the units of energy and force to show."""
    return unit_of(facts.origin.e_unit), unit_of(facts.origin.f_unit)


def unit_of(name: str) -> str:
    """Return a unit to show; an empty name is unknown."""
    return re.sub(r"\b[Aa]ng(strom)?\b", "Å", name) if name else "unknown unit"


def share(accuracy: Accuracy) -> str:
    """Return how many geometries were compared of those that there are."""
    n, n_left = accuracy.n_geometries, accuracy.n_left
    return f"all {n:,}" if n == n_left else f"{n:,} of the {n_left:,}"


def headline(facts: Facts) -> list[tuple[str, str, str]]:
    """Return the most important figures: label, value, unit or remark."""
    e_unit, f_unit = units(facts)
    rows = []
    errors = _errors(facts)
    if "force" in errors:
        rows.append(("Force MAE", number(errors["force"].mae), f_unit))
    if "energy" in errors:
        rows.append(("Energy MAE", number(errors["energy"].mae), e_unit))
    rows.append(("Training points", f"{facts.origin.n_train:,}", f"{facts.origin.n_atoms} atoms"))
    rows.append(("Permutations", f"{facts.origin.n_perms:,}", f"sigma {facts.origin.sig:g}"))
    if facts.timing is not None:
        rows.append(("Speed", f"{facts.timing.bulk_per_s:,.0f}", "geometries a second"))
    return rows


def _errors(facts: Facts) -> dict[str, Quantity]:
    if facts.accuracy is None:
        return facts.expected
    found = {"force": facts.accuracy.forces}
    if facts.accuracy.energies is not None:
        found["energy"] = facts.accuracy.energies
    return found


def origin_rows(facts: Facts) -> list[tuple[str, str]]:
    """Return names and values of what the model is."""
    origin = facts.origin
    rows = [
        ("File", origin.file),
        ("System", title(facts)),
        ("Level of theory", origin.theory),
        ("Atoms", f"{origin.n_atoms}"),
        ("Units", f"energy {unit_of(origin.e_unit)}, length {unit_of(origin.r_unit)}"),
        ("Length scale sigma", f"{origin.sig:g}"),
        ("Regularisation lambda", _lam(origin)),
        ("Energies", origin.energies),
        ("Permutations", f"{origin.n_perms:,}"),
    ]
    if origin.cell is not None:
        for name, vector in zip("abc", origin.cell, strict=True):
            values = ", ".join(f"{component:.5g}" for component in vector)
            rows.append((f"Lattice vector {name}", f"{values} {unit_of(origin.r_unit)}"))
    if "Training points" not in origin.entries:
        rows.append(("Training points", f"{origin.n_train:,}"))
    return [*rows, *origin.entries.items()]


def _lam(origin: Origin) -> str:
    """Return lambda, and the noise of labels that it stands for."""
    if origin.label_noise is None:
        return number(origin.lam)
    return f"{number(origin.lam)}: label noise of about {origin.label_noise:.2g} {unit_of(origin.f_unit)}"


def error_rows(facts: Facts) -> list[tuple[str, ...]]:
    """Return lines of a table of errors: what, MAE, RMSE, mean deviation, unit."""
    e_unit, f_unit = units(facts)
    rows: list[tuple[str, ...]] = []
    if facts.accuracy is not None:
        accuracy = facts.accuracy
        pairs = [("Force components", accuracy.forces, f_unit), ("Energies", accuracy.energies, e_unit)]
        rows += [
            (name, number(errors.mae), number(errors.rmse), number(errors.mean), unit)
            for name, errors, unit in pairs
            if errors is not None
        ]
    for label, name, unit in (("Force components", "force", f_unit), ("Energies", "energy", e_unit)):
        if name in facts.expected:
            recorded = facts.expected[name]
            label = f"{label}, recorded ({facts.expected_from})"
            rows.append((label, number(recorded.mae), number(recorded.rmse), number(recorded.mean), unit))
    if facts.left_out is not None:
        mae, rmse = number(facts.left_out.mae), number(facts.left_out.rmse)
        rows.append(("Force components, training points left out", mae, rmse, number(None), f_unit))
    return rows


def deviation_summary(deviations: Deviations) -> str:
    """Return how standard deviations compare with errors, in sentences."""
    parts = [f"Error over deviation: {number(deviations.force_ratio)} of forces"]
    if deviations.energy_ratio is not None:
        parts[0] += f", {number(deviations.energy_ratio)} of energies"
    parts[0] += " (1 is right, above 1 deviations are too small)."
    parts.append(f"Rank correlation of errors and deviations of geometries: {number(deviations.rank_correlation)}.")
    return " ".join(parts)


def deviation_rows(facts: Facts) -> list[tuple[str, ...]]:
    """Return lines of a table of standard deviations: part of the geometries, deviation and error of forces."""
    if facts.accuracy is None or facts.accuracy.deviations is None:
        return []
    parts = facts.accuracy.deviations.parts
    return [(f"{i + 1} of {len(parts)}", number(std), number(error)) for i, (std, error) in enumerate(parts)]


def worst_rows(facts: Facts) -> list[tuple[str, ...]]:
    """Return lines of a table of the worst geometries: number, force RMSE, energy error, atom of the largest error."""
    if facts.accuracy is None:
        return []
    rows: list[tuple[str, ...]] = []
    for each in facts.accuracy.worst:
        atom = max(range(len(each.atoms)), key=each.atoms.__getitem__)
        where = f"{facts.molecule.symbols[atom]} {atom}: {number(each.atoms[atom])}"
        rows.append((f"{each.number:,}", number(each.f_rmse), number(each.e_error), where))
    return rows


def search_rows(facts: Facts) -> list[tuple[str, ...]]:
    """Return lines of a table of the search for sigma."""
    return [(f"{t.sig:g}", number(t.f_mae), number(t.f_rmse), number(t.e_mae), number(t.e_rmse)) for t in facts.search]


def curve_rows(facts: Facts) -> list[tuple[str, ...]]:
    """Return lines of a table of the learning curve."""
    return [
        (
            f"{p.n_train:,}",
            f"{p.sig:g}",
            number(p.f_mae),
            number(p.f_rmse),
            number(p.e_mae),
            number(p.e_rmse),
            f"{p.seconds:.3g}",
        )
        for p in facts.learning_curve
    ]


def timing_rows(facts: Facts) -> list[tuple[str, str]]:
    """Return names and values of the speed."""
    timing = facts.timing
    if timing is None:
        return []
    return [
        ("Many geometries at once", f"{timing.bulk_per_s:,.0f} a second"),
        ("One geometry alone", f"{timing.single_us:,.0f} µs"),
        ("Threads", str(timing.n_threads)),
        ("Machine", timing.machine),
    ]


def orbit_rows(facts: Facts) -> list[tuple[str, str]]:
    """Return the sets of atoms that permutations exchange: element, numbers."""
    symbols = facts.molecule.symbols
    return [(symbols[atoms[0]], ", ".join(str(atom) for atom in atoms)) for atoms in facts.molecule.orbits]


def xyz_of(facts: Facts, number_of: int) -> str:
    """Return one of the worst geometries as XYZ."""
    assert facts.accuracy is not None
    each = facts.accuracy.worst[number_of]
    lines = [str(len(facts.molecule.z)), f"geometry {each.number} of {facts.accuracy.dataset}, {facts.origin.r_unit}"]
    lines += [
        f"{symbol:<2} " + " ".join(f"{component:12.5f}" for component in position)
        for symbol, position in zip(facts.molecule.symbols, each.geometry.R, strict=True)
    ]
    return "\n".join(lines)


def no_search(facts: Facts) -> str:
    """Return what to say where no search is known."""
    return (
        f"Sigma is {facts.origin.sig:g}. The file of the model does not record a search, and no folder with the models "
        "of one was given."
    )
