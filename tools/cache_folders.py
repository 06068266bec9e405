#!/usr/bin/env python3
"""Print the folders of a package in which Python may leave compiled files, relative to it: for meson.build."""

import sys
from pathlib import Path

if __name__ == "__main__":
    root = Path(__file__).resolve().parent.parent / sys.argv[1]
    folders = [root, *(path for path in root.rglob("*") if path.is_dir() and path.name != "__pycache__")]
    print("\n".join(sorted((folder / "__pycache__").relative_to(root).as_posix() for folder in folders)))
