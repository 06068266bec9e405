"""Stands in for the package sgdml. Importing it makes ``import sgdml`` lead here: see `fastgdml.compat`."""

from fastgdml.compat import install

__version__ = "1.0.3"  # whose interface this is; scripts compare it and write it to their files

MAX_PRINT_WIDTH = 100
LOG_LEVELNAME_WIDTH = 7

# States that progress callbacks are called with.
DONE = 1
NOT_DONE = 0

install()
