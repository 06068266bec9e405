"""The picture of README shows what its table and that of docs/performance.md say."""

import re

from support.paths import ROOT


def test_the_picture_shows_the_measured_figures():
    picture = (ROOT / "docs" / "measured.svg").read_text(encoding="utf-8")
    shown = set(re.findall(r">\s*([\d.]+x)\s*<", picture))
    table = re.findall(r"\| ([\d.]+x) \|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(shown) >= 6
    assert shown <= set(table), "python docs/figures/measured.py docs/measured.svg"
    errors = set(re.findall(r">\s*(0\.\d+)\s*<", picture))
    published = re.findall(
        r"\| ([\d.]+) \| [\d.]+, ([\d.]+) \|$", (ROOT / "docs/performance.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert errors == set(sum(published, ())), "python docs/figures/measured.py docs/measured.svg"
