"""Types of the packed linear algebra (src/_packed.pyx)."""

import numpy as np
import numpy.typing as npt

_F8 = npt.NDArray[np.float64]

def add_blocks(a: _F8, n: int, begin: npt.NDArray[np.int64], blocks: _F8) -> None: ...
def cholesky(a: _F8, n: int, largest: int = ...) -> int: ...
def solve(a: _F8, n: int, rhs: _F8) -> int: ...
