"""Signals act between blocks of a factorisation, and blocks change nothing."""

import subprocess
import sys

import numpy as np
import pytest

from fastgdml import lapack

INTERRUPTED = """
import signal, sys, time
import numpy as np
from fastgdml import lapack
n = int(sys.argv[1])
A = np.zeros((n, n), order="F")
A[np.diag_indices(n)] = 1.0
class Stop(Exception): pass
def stop(*_): raise Stop
signal.signal(signal.SIGALRM, stop)
lapack.cholesky_dense(A[:100, :100].copy(order="F"))
signal.setitimer(signal.ITIMER_REAL, 0.001)
try:
    lapack.cholesky_dense(A)
    print("finished")
except Stop:
    # the last block that is factored was not reached, or it would have been finished
    print("stopped")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no timers that send signals")
def test_a_signal_ends_a_factorisation_at_a_block(tmp_path):
    command = [sys.executable, "-c", INTERRUPTED, "6000"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.split() == ["stopped"], done.stderr


@pytest.mark.parametrize("largest", [5, 64, 4096])
def test_blocks_of_any_size_give_the_factor(largest):
    rng = np.random.default_rng(0)
    A = rng.normal(size=(301, 301))
    A = A @ A.T + 10 * np.eye(301)
    factor = np.asfortranarray(A)
    assert lapack.cholesky_dense(factor, largest) == 0
    expected = np.linalg.cholesky(A)
    np.testing.assert_allclose(np.tril(factor), expected, rtol=0, atol=1e-12 * np.abs(expected).max())
