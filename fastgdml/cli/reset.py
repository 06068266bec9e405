"""`fastgdml reset`: delete caches."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from ..errors import UsageError
from .console import Console


def run(args: argparse.Namespace, console: Console) -> None:
    """Delete the cache directory, if there is one."""
    cache = cache_dir()
    deleted = False
    if not cache.is_dir():
        console.info(f"There is nothing to delete ('{cache}' does not exist).")
    elif (args.quiet or args.json) and not args.yes:
        raise UsageError("With --quiet or --json nothing is asked: say --yes to delete.")
    elif args.yes or console.confirm(f"Delete '{cache}'?"):
        shutil.rmtree(cache)
        deleted = True
        console.done(f"Deleted '{cache}'")
    else:
        console.info("Nothing was deleted.")
    console.result({"path": str(cache), "deleted": deleted})


def cache_dir() -> Path:
    """Return the user's cache directory of fastgdml."""
    base = os.environ.get("XDG_CACHE_HOME") or (
        os.environ.get("LOCALAPPDATA") if os.name == "nt" else Path.home() / ".cache"
    )
    return Path(base or Path.home()) / "fastgdml"
