"""What remains of a run for people: a table of calls, and a page about it."""

from __future__ import annotations

import csv
import io
import math
import os
from collections import Counter
from collections.abc import Sequence

from ..npz import TEXT, replacing
from .records import CONTROL, EARLY, EXTREME, FAILED, HIGH, KNOWN, Call

_COLUMNS = ("call", "why", "outcome", "step", "seconds", "energy", "force_mae", "force_std", "limit", "points", "sigma")
_WHY = {CONTROL: "at the interval (control points)", EARLY: "early, or sooner after a step back"}
_OUTCOME = {
    HIGH: "too high in energy for the temperature, learned from, and the trajectory stepped back",
    EXTREME: "far too high in energy, not learned from, and the trajectory stepped back",
    KNOWN: "known to the model already",
    FAILED: "failed in the calculator, and the trajectory stepped back",
}


def write_calls(path: str | os.PathLike[str], calls: Sequence[Call]) -> None:
    """Write a line for each call, CSV, in the units of the labels."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_COLUMNS, "permutations", "message"])
    for call in calls:
        numbers = (call.E, call.mae, call.f_std, call.limit)
        shown = ["" if math.isnan(value) else f"{value:.6g}" for value in numbers]
        shown[0] = "" if math.isnan(call.E) else f"{call.E:.8f}"
        row = [call.number, call.why, call.outcome, call.state.step, f"{call.seconds:.3f}", *shown]
        writer.writerow([*row, call.n_train, f"{call.sig:g}", len(call.perms), call.message])
    with replacing(path, TEXT) as file:
        file.write(text.getvalue().encode())


def write_report(path: str | os.PathLike[str], facts: Sequence[tuple[str, str]], calls: Sequence[Call]) -> None:
    """Write the page, Markdown: facts, what the calls were spent on, how the error fell."""
    lines = ["# Learning on the fly", "", *(f"- {name}: {value}" for name, value in facts), "", "## Calls", ""]
    seconds = sum(call.seconds for call in calls)
    lines.append(f"{len(calls)} calls of the calculator, {seconds:,.1f} s in it.")
    lines.append("")
    why = Counter(_WHY.get(call.why, "for the first model") for call in calls)
    lines += [f"- {count} {name}" for name, count in why.items()]
    outcome = Counter(call.outcome for call in calls)
    lines += [f"- {outcome[name]} {text}" for name, text in _OUTCOME.items() if outcome[name]]
    lines += [
        "",
        "## Errors",
        "",
        "Mean absolute errors of forces on control points, which the model had not seen:",
        "",
    ]
    lines += ["| calls | points | sigma | error |", "|---|---|---|---|"]
    controls = [call for call in calls if call.why == CONTROL and call.outcome != FAILED]
    for first in range(0, len(controls), 10):
        part = controls[first : first + 10]
        mean = sum(call.mae for call in part) / len(part)
        lines.append(f"| {part[-1].number} | {part[-1].n_train} | {part[-1].sig:g} | {mean:.4f} |")
    with replacing(path, TEXT) as file:
        file.write(("\n".join(lines) + "\n").encode())
