"""The exceptions of fastgdml. Every message says what was found, where, and what to do."""

from __future__ import annotations


class FastGDMLError(Exception):
    """Base of all errors that fastgdml raises on purpose."""


class DataError(FastGDMLError, ValueError):
    """A dataset, task, model or geometry holds something that cannot be used."""


class FileFormatError(FastGDMLError, OSError):
    """A file is missing, truncated, unsafe or not of the kind that was asked for."""


class UsageError(FastGDMLError, ValueError):
    """Arguments contradict each other or the data they are applied to."""


class NoPointsLeftError(UsageError):
    """All points of a dataset were used for training or validation, so that none is left to test on."""


class SolverError(FastGDMLError, ArithmeticError):
    """A linear system could not be solved."""


class InsufficientMemoryError(FastGDMLError, MemoryError):
    """The work would not fit into the memory limit."""


class SelfTestError(FastGDMLError):
    """The self-test of an installation failed."""


class ClusterError(FastGDMLError, RuntimeError):
    """A cluster cannot be reached or used, or has lost what it worked on."""
