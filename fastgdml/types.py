"""Names of the arrays and callbacks that many signatures use."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]
# Entries of datasets, tasks and models: as made, scalars of Python or NumPy; as read from a file, arrays of shape ().
Text = str | bytes | npt.NDArray[np.str_] | npt.NDArray[np.bytes_]
Number = float | np.number | npt.NDArray[np.number | np.bool_]
Flag = bool | np.bool_ | npt.NDArray[np.bool_]
Integers = npt.NDArray[np.integer]
# Called with (done, total), in any unit.
Progress = Callable[[int, int], None]
