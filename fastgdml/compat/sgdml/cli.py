"""Stands in for sgdml.cli: the command line of fastgdml, which takes sgdml's commands and options."""

import sys

from fastgdml.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
