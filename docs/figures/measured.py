"""The picture of README: accuracy and speed side by side, from the tables of README.md and docs/performance.md.

After new measurements: python docs/figures/measured.py docs/measured.svg
"""

import re
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[2]
OURS, THEIRS = "#1f5fa8", "#b8bec6"
SHORT = {
    "kernel matrix for training, aspirin, 200 points": "kernel matrix",
    "predict 1000 geometries, aspirin, 200 points": "predict 1000 geometries",
    "predict one geometry at a time, aspirin, 200 points": "predict one geometry",
    "train, ethanol, 500 points": "train, ethanol",
    "train, aspirin, 200 points": "train, aspirin",
    "find permutations, ethanol, 500 points": "find permutations",
    "MD in ASE, ethanol, 200 points": "MD in ASE",
    "8-bead path integrals in i-PI, ethanol, 200 points": "path integrals in i-PI",
}


def rows(page: str, n_columns: int) -> list[list[str]]:
    """Return the cells of all rows of tables with so many columns."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [row for row in cells if len(row) == n_columns]


ratios = {row[0]: float(row[3][:-1]) for row in rows("README.md", 4) if re.fullmatch(r"[\d.]+x", row[3])}
missing = SHORT.keys() - ratios.keys()
if missing:
    raise SystemExit(f"README.md has no row for {missing}: change the names in {Path(__file__).name}, too.")
published = [row for row in rows("docs/performance.md", 9) if re.fullmatch(r"[\d.]+, [\d.]+", row[8])]

plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "fastgdml", "font.size": 9}
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.9), layout="constrained", width_ratios=[1, 1.5])
for k, row in enumerate(published):
    errors = float(row[7]), float(row[8].split(", ")[1])
    for shift, error, colour, ink, name in zip(
        (-0.2, 0.2), errors, (OURS, THEIRS), ("white", "black"), ("fastgdml", "published"), strict=True
    ):
        left.barh(k + shift, error, 0.38, color=colour)
        left.text(0.01, k + shift, name, va="center", color=ink)
        left.text(error, k + shift, f" {error:g}", va="center")
left.set_yticks(range(len(published)), [row[0] for row in published])
left.invert_yaxis()
left.set(title="Accuracy: MAE of forces, kcal/mol/Å\n1000 training points of MD17", xlim=(0, 0.9), xticks=[])
names = list(SHORT)
right.barh(range(len(names)), [ratios[name] for name in names], 0.7, color=OURS)
for k, name in enumerate(names):
    right.text(ratios[name], k, f" {ratios[name]:g}x", va="center")
right.set_yticks(range(len(names)), [SHORT[name] for name in names])
right.invert_yaxis()
right.set(title="Speed: times faster than sgdml 1.0.3\nin its faster mode, two cores", xticks=[])
right.set_xlim(0, 1.15 * max(ratios[name] for name in names))
for axes in (left, right):
    axes.title.set_size(9)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(left=False)
figure.savefig(sys.argv[1], metadata={"Date": None})
