#!/usr/bin/env python3
"""Print the version of the project, whose only home is pyproject.toml."""

import pathlib
import tomllib

PYPROJECT = pathlib.Path(__file__).resolve().parent.parent / "pyproject.toml"

if __name__ == "__main__":
    print(tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["version"])
