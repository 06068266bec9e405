"""`fastgdml reset`: delete caches."""

from __future__ import annotations

import argparse
import shutil
from contextlib import suppress

from ..catalog import cache_folder
from ..errors import UsageError
from .console import Console


def run(args: argparse.Namespace, console: Console) -> None:
    """Delete what was downloaded, and the cache folder unless something else is in it."""
    cache = cache_folder()
    deleted = False
    if not cache.is_dir():
        console.info(f"There is nothing to delete ('{cache}' does not exist).")
    elif (args.quiet or args.json) and not args.yes:
        raise UsageError("With --quiet or --json nothing is asked: say --yes to delete.")
    elif args.yes or console.confirm(f"Delete what is in '{cache}'?"):
        for kind in ("datasets", "models"):
            shutil.rmtree(cache / kind, ignore_errors=True)
        with suppress(OSError):  # other files are there, which are not ours
            cache.rmdir()
        deleted = True
        if cache.exists():
            console.warning(f"'{cache}' holds other files, and is kept.")
        else:
            console.done(f"Deleted '{cache}'")
    else:
        console.info("Nothing was deleted.")
    console.result({"path": str(cache), "deleted": deleted})
