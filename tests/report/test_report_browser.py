"""Reports in a real browser, for 9, 21 and 54 atoms: nothing overlaps or sticks out, no errors, no requests."""

import re

import matplotlib.image
import pytest
from support.browser import browser, look_at, picture_of
from support.reports import SYSTEMS, facts_of

from fastgdml.report import write


@pytest.fixture(scope="module", params=SYSTEMS)
def report(request, tmp_path_factory):
    browser()
    folder = tmp_path_factory.mktemp("report")
    facts = facts_of(request.param, folder)
    write(facts, folder / "report.html")
    return folder / "report.html", facts


def _rgb(colour):
    return [int(number) for number in re.findall(r"\d+", colour)[:3]]


def _contrast(one, other):
    """Ratio of luminances as the guidelines for accessible pages have it (WCAG 2.1)."""

    def luminance(colour):
        parts = [value / 255 for value in _rgb(colour)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_page(report, dark, tmp_path):
    path, facts = report
    views, console = look_at(path, tmp_path, dark=dark)
    assert console == []
    assert [view["width"] for view in views] == [390, 1200]
    for view in views:
        assert view["content"] <= view["width"]  # nothing to scroll sideways
        assert view["errors"] == view["requests"] == view["broken"] == []
        assert view["outside"] == []
        assert view["overlaps"] == []
        assert min(view["texts"]) > 6
        assert view["links"] == 7
        assert view["followed"] == "#accuracy"
        assert (sum(_rgb(view["background"])) < 200) == dark
        assert _contrast(view["background"], view["ink"]) > 7
        for text in (facts.origin.formula, "Force components", "error of the force vector", "training points [number]"):
            assert text in view["selected"]


def test_pictures_of_the_page_show_something(report, tmp_path):
    path, _ = report
    for dark in (False, True):
        image = matplotlib.image.imread(picture_of(path, tmp_path, 1000, 4000, dark))[..., :3]
        assert image.shape[:2] == (4000, 1000)
        assert (image.mean() < 0.4) == dark
        rows = image.std(axis=(1, 2)) > 0.02
        assert rows[:3000].mean() > 0.5
