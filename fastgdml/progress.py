"""The progress callbacks of the Python interface, in sgdml's form."""

from __future__ import annotations

import time
from typing import Protocol

NOT_DONE, DONE = 0, 1


class Callback(Protocol):
    """What callers may pass to follow a calculation."""

    def __call__(
        self,
        current: int,
        total: int = 1,
        disp_str: str = "",
        sec_disp_str: str | None = None,
        done_with_warning: bool = False,
    ) -> None:
        """Report that `current` of `total` pieces of the step `disp_str` are done; `sec_disp_str` is a detail."""


class Step:
    """One step of a calculation, reported to a callback (or to nobody)."""

    def __init__(self, callback: Callback | None, title: str, total: int = 1) -> None:
        self._callback = callback
        self._title = title
        self._total = total
        self._start = time.perf_counter()
        self._report(NOT_DONE)

    def __call__(self, current: int, total: int, detail: str | None = None) -> None:
        """Report progress; the end is reported by `done`."""
        if current < total:
            self._total = total
            self._report(current, detail)

    def done(self, detail: str | None = None, warn: bool = False) -> None:
        """Report the end of the step, with the time it took unless there is something better to say."""
        elapsed = time.perf_counter() - self._start
        if detail is None and elapsed >= 0.1:
            detail = f"took {elapsed:.1f} s"
        self._report(self._total, detail, warn)

    def _report(self, current: int, detail: str | None = None, warn: bool = False) -> None:
        if self._callback is not None:
            self._callback(current, self._total, disp_str=self._title, sec_disp_str=detail, done_with_warning=warn)
