"""What an iteration's course is taken to be, and what is decided then: pure functions of counted numbers."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from fastgdml.solvers import choice
from fastgdml.solvers.convergence import Convergence
from fastgdml.solvers.cost import Cost, Rates, column_counts
from fastgdml.solvers.course import Course, Verdict

# 200 points of aspirin.
COST = Cost(200, 63, 18, 1.31e8, Rates())
COUNTS = tuple(column_counts(12600, 63))
CLOSED_FORM = 4.7


def course_of(falls, n_columns, steps, counts=COUNTS, closed_form=CLOSED_FORM):
    """Return a course after an iteration whose residual falls as exp(-falls(t)) for so many steps, or has stopped."""
    course, convergence = Course(COST, counts, n_columns, closed_form, max(counts)), Convergence(1.0, 1e-4)
    course.begin()
    for t in range(steps):
        convergence.record(math.exp(-2 * falls(t)))
        if course.review(convergence):
            break
    return course, convergence


@pytest.mark.parametrize("power", [0.65, 0.8, 1.0])
@pytest.mark.parametrize("whole", [60, 300, 1000])
def test_steps_left_are_estimated(power, whole):
    convergence = Convergence(2.0, 2e-4)
    rng = np.random.default_rng(0)
    for t in range(whole):
        convergence.record(math.exp(-2 * (math.log(1e4) * (t / whole) ** power + rng.normal(0, 0.05))))
        if t >= 0.2 * whole:
            assert 0.4 < convergence.steps_left() / (whole - t) < 2.5 or whole - t < 0.2 * whole


def test_a_slow_beginning_does_not_count():
    """What a warm start does: nothing in the first ten of 200 steps, then a constant rate."""
    convergence = Convergence(1.0, 1e-4)
    for t in range(150):
        convergence.record(math.exp(-2 * math.log(1e4) * max(t - 10, 0) / 190))
        if t > 20:
            assert 0.9 < convergence.steps_left() / (200 - t) < 2.1


def test_nothing_falls():
    convergence = Convergence(1.0, 1e-4)
    assert convergence.steps_left() == math.inf
    for energy in (1.0, 1.0, 2.0, math.nan, -1.0):
        convergence.record(energy)
    assert convergence.steps_left() == math.inf
    assert course_of(lambda _t: 0.0, 500, 200)[0].verdict is Verdict.CLOSED_FORM


def test_a_fast_iteration_goes_on():
    course, convergence = course_of(lambda t: 0.1 * t, 500, 100)
    assert course.verdict is Verdict.GO_ON
    assert convergence.steps == 99


def test_a_slow_iteration_gets_columns():
    course, convergence = course_of(lambda t: 0.05 * t**0.8, 500, 300)
    assert course.verdict is Verdict.ADD_COLUMNS
    assert course.n_columns >= 1.4 * 500
    assert convergence.steps <= 25
    assert course.spent == pytest.approx(COST.building(500) + convergence.steps * COST.step(500))
    # with less memory there are none to add
    assert course_of(lambda t: 0.05 * t**0.8, 500, 300, counts=(400, 500))[0].verdict is not Verdict.ADD_COLUMNS


def test_more_columns_than_expected_need_certainty():
    """After few steps an estimate may be far too large; the preconditioner that it would pay for is dear."""
    looks = []
    for expected in (2000, 500):
        course, convergence = Course(COST, COUNTS, 500, math.inf, expected), Convergence(1.0, 1e-4)
        course.begin()
        for t in range(300):
            convergence.record(math.exp(-2 * 0.08 * t**0.8))
            if course.review(convergence):
                break
        assert course.verdict is Verdict.ADD_COLUMNS
        assert course.n_columns <= 2.5 * 500
        looks.append(convergence.steps)
    assert looks[0] < looks[1]


def test_a_hopeless_iteration_gives_way():
    for counts in (COUNTS, (500,)):
        course, _ = course_of(lambda t: 1e-3 * t, 500, 300, counts)
        assert course.verdict is Verdict.CLOSED_FORM
        assert course.spent < 0.15 * CLOSED_FORM
    assert course_of(lambda t: 1e-3 * t, 500, 300, (500,), math.inf)[0].verdict is Verdict.GO_ON


@pytest.mark.parametrize("power", [0.65, 0.8, 1.0])
@pytest.mark.parametrize("c", [1.5, 5, 15, 40, 100, 400])
def test_a_wrong_start_costs_little(power, c):
    """Matrices that take c n / k steps; the time of all stages against the better of both solvers."""

    def steps_with(k):
        return c * COST.n / k

    best = min(COUNTS, key=lambda k: COST.total(k, 1e-4))
    affordable = [k for k in COUNTS if k <= best and COST.building(k) <= choice._SHARE_OF_START * CLOSED_FORM]
    course = Course(COST, COUNTS, affordable[-1], CLOSED_FORM, best)
    residual = 1.0
    for _ in range(10):
        course.begin()
        k, convergence = course.n_columns, Convergence(residual, 1e-4)
        whole = steps_with(k) * max(math.log(residual / 1e-4) / math.log(1e4), 0.05)
        falls = math.log(residual / 1e-4)
        for t in range(math.ceil(whole)):
            now = falls * (t / whole) ** power
            convergence.record(math.exp(-2 * now))
            if course.review(convergence):
                residual *= math.exp(-now)
                break
        if course.verdict is Verdict.GO_ON:
            spent = course.spent + math.ceil(whole) * COST.step(k)
            break
        if course.verdict is Verdict.CLOSED_FORM:
            spent = course.spent + CLOSED_FORM
            break
    better = min(CLOSED_FORM, *(COST.building(k) + steps_with(k) * COST.step(k) for k in COUNTS))
    assert spent < 1.5 * better


def test_costs():
    rates = Rates(
        factor=1e9, entries=1e7, columns=1e6, blas=1e9, blocks=1e8, kernels=1e8, bytes=1e9, begin=0.5, turn=0.25
    )
    cost = Cost(25, 108, 18, 2e8, rates)
    assert cost.n == 2700
    assert cost.step(100) == pytest.approx(0.25 + 2 + (2 * 2.25 * 2700 * 100 + 1.6e5 + 16 * 2700 * 108) / 1e9)
    assert cost.building(100) == pytest.approx(0.5 + 0.27 + (2 * 2700 * 1e4 + 2e6 / 3) / 1e9 + 25 * 108**3 / 1e8)
    # twice as many atoms as 9, an eighth of the points, and twice for 1e-8
    assert cost.steps(100, 1e-8) == pytest.approx(6.5 * 27**1.3 * 2**1.2 * 8**0.45 * 2)
    for sig, lam, ease in ((20, 1e-10, 1), (10, 1e-10, 1 / 16), (20, 1e-6, 1e4), (10, 1.6e-9, 1), (40, 0, 0.01)):
        steps = replace(cost, sig=sig, lam=lam).steps(100, 1e-8)
        assert steps == pytest.approx(ease**-0.2 * cost.steps(100, 1e-8))
    assert cost.total(100, 1e-8) == pytest.approx(cost.building(100) + cost.steps(100, 1e-8) * cost.step(100))
    counts = list(column_counts(5000, 63))
    assert counts[0] == 63
    assert all(a < b for a, b in pairwise(counts))
