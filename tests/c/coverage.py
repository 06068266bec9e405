"""Lines of the C library that its tests run, from a build with -Db_coverage=true: a floor for all of them together.

    python coverage.py BUILD [FLOOR]

Files that only Python or an engine calls are reported and not counted: tests of those are written in Python.
"""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ELSEWHERE = {
    "assembly.c": "training, in Python",
    "trace.c": "training, in Python",
    "low_rank.c": "training, in Python",
    "assignment.c": "training, in Python",
    "attach.c": "LAMMPS",
    "step.c": "LAMMPS",
    "client.c": "i-PI",
    "options.c": "i-PI",
    "socket.c": "i-PI",
}


def counts_of(build):
    """How often each line was run, by file: the most of all objects that were made of it."""
    counts = defaultdict(dict)
    for data in sorted(build.glob("src/**/*.gcda")):
        command = ["gcov", "--json-format", "--stdout", str(data)]
        text = subprocess.run(command, capture_output=True, text=True, check=True, cwd=build).stdout
        for report in map(json.loads, text.splitlines()):
            for file in report["files"]:
                if "src/" not in file["file"] or file["file"].startswith("/usr"):
                    continue
                lines = counts[Path(file["file"]).name]
                for line in file["lines"]:
                    lines[line["line_number"]] = max(lines.get(line["line_number"], 0), line["count"])
    return counts


def ranges(numbers):
    """Numbers as text, those in a row as one."""
    parts = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return " ".join(f"{first}-{last}" if last > first else str(first) for first, last in parts)


def main():
    build, floor = Path(sys.argv[1]).resolve(), float(sys.argv[2]) if len(sys.argv) > 2 else 90.0
    run = every = 0
    for name, lines in sorted(counts_of(build).items()):
        done = sum(count > 0 for count in lines.values())
        note = (
            f"not counted: {ELSEWHERE[name]}"
            if name in ELSEWHERE
            else ranges(sorted(n for n, c in lines.items() if not c))
        )
        print(f"{name:20s} {100 * done / len(lines):5.1f} % of {len(lines):4d} lines   {note}")
        if name not in ELSEWHERE:
            run, every = run + done, every + len(lines)
    if not every:
        sys.exit("no coverage data: was the build made with -Db_coverage=true, and were its tests run?")
    print(f"{'together':20s} {100 * run / every:5.1f} % of {every:4d} lines, {floor:g} % wanted")
    if 100 * run / every < floor:
        sys.exit(f"the C tests run {100 * run / every:.1f} % of the lines, less than {floor:g} %")


if __name__ == "__main__":
    main()
