"""Findings of diagnoses reach the user: as warnings, each once, or as an error."""

from __future__ import annotations

import logging

from .diagnostics import Finding
from .errors import DataError

_log = logging.getLogger(__name__)


class Reporter:
    """Warns of findings, of each once: trainings with other parameters meet the same data."""

    def __init__(self) -> None:
        self._reported: set[Finding] = set()

    def __call__(self, findings: list[Finding]) -> None:
        """Warn of findings; raise DataError with the first that is an error."""
        for finding in findings:
            if finding.level == "error":
                raise DataError(str(finding))
            if finding not in self._reported:
                self._reported.add(finding)
                _log.warning("%s", finding)
