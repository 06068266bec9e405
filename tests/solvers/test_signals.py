"""Signals act between blocks of what takes long, and blocks change nothing."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastgdml import lapack

# Each work takes a second or more, and the signal comes soon after its beginning.
INTERRUPTED = """
import signal, time
import numpy as np
from support.models import make_model, make_samples
from support.molecules import cyclic_group, random_molecules
from fastgdml import lapack
from fastgdml.kernel import Coordinates, assemble_packed
from fastgdml.predict import GDMLPredict
from fastgdml.threads import blas_threads
from fastgdml.training_set import TrainingSet

class Stop(Exception): pass
def stop(*_): raise Stop
signal.signal(signal.SIGALRM, stop)

R, perms = random_molecules(150, 12), cyclic_group(12, 12)
training = TrainingSet.from_R(R, perms, 5.0)
model = make_model(R, perms)[0]
plain = GDMLPredict(model, max_processes=1)
samples = GDMLPredict({**model, **make_samples(model, 8)}, max_processes=1)
many = np.tile(R.reshape(len(R), -1), (400, 1))
n = 5200
packed = np.zeros(n * (n + 1) // 2)
lapack.add_blocks(packed, n, np.arange(n + 1), np.ones((n, 1, 1)))  # the unit matrix, which is its own factor
order = 7400
single = np.zeros(order * (order + 1) // 2, dtype=np.float32)
lapack.isolate(single, order, np.arange(order))
square = np.zeros((5200, 5200), order="F")
square[np.diag_indices(5200)] = 1.0

works = {
    "factor": lambda: lapack.cholesky_dense(square, 1),
    "packed factor": lambda: lapack.cholesky(packed, n, 1),
    "factor in single precision": lambda: lapack.cholesky_single(single, order, 1),
    "inverse": lambda: lapack.invert_factor(packed, n, 1),
    "kernel matrix": lambda: assemble_packed(training, Coordinates.full(150, 36), 1.0, 1),
    "predictions": lambda: plain.predict(many),
    "standard deviations": lambda: samples.predict(many, return_std=True),
}
with blas_threads(1):
    for name, work in works.items():
        begun = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        try:
            work()
            print("finished:", name)
        except Stop:
            print("stopped:", name, f"{time.perf_counter() - begun:.2f} s")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no timers that send signals")
def test_a_signal_ends_what_takes_long_at_a_block(tmp_path):
    command = [sys.executable, "-c", INTERRUPTED]
    surroundings = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        command, cwd=tmp_path, env=surroundings, capture_output=True, text=True, timeout=300, check=False
    )
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == 7 * ["stopped"], done.stdout + done.stderr


@pytest.mark.parametrize("tile", [5, 64, 256])
def test_blocks_of_any_size_give_the_factor(tile):
    rng = np.random.default_rng(0)
    A = rng.normal(size=(301, 301))
    A = A @ A.T + 10 * np.eye(301)
    factor = np.asfortranarray(A)
    assert lapack.cholesky_dense(factor, 2, tile) == 0
    expected = np.linalg.cholesky(A)
    np.testing.assert_allclose(np.tril(factor), expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    np.testing.assert_array_equal(np.triu(factor, 1), np.triu(A, 1))


@pytest.mark.parametrize("size", [5, 64, 512])
@pytest.mark.parametrize("n", [1, 2, 301, 302])
def test_packed_blocks_of_any_size_give_factor_and_inverse(n, size):
    rng = np.random.default_rng(1)
    A = rng.normal(size=(n, n))
    A = A @ A.T + np.eye(n)
    packed, columns = np.zeros(n * (n + 1) // 2), np.empty((n, n))
    lapack.add_blocks(packed, n, np.array([0, n]), A[None].copy())
    expected = np.linalg.cholesky(A)
    assert lapack.cholesky(packed, n, 2, size) == 0
    lapack.factor_columns(packed, n, 0, n, columns)
    np.testing.assert_allclose(columns, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    assert lapack.invert_factor(packed, n, 2, size) == 0
    lapack.factor_columns(packed, n, 0, n, columns)
    expected = np.linalg.inv(expected)
    np.testing.assert_allclose(columns, expected, rtol=0, atol=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize("size", [2, 64])
@pytest.mark.parametrize("at", [0, 3, 5, 8])
def test_a_zero_on_the_diagonal_is_named(at, size):
    packed = np.zeros(45)
    lapack.add_blocks(packed, 9, np.arange(10), np.where(np.arange(9) == at, 0.0, 1.0)[:, None, None].copy())
    assert lapack.invert_factor(packed.copy(), 9, 2, size) == at + 1
    assert lapack.cholesky(packed, 9, 2, size) == at + 1
