"""Names of the arrays and callbacks that many signatures use."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]
# Called with (done, total), in any unit.
Progress = Callable[[int, int], None]
