"""`fastgdml get`: list and download published datasets and models."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from .. import catalog
from ..errors import UsageError
from ..npz import DATASET, MODEL, SGDML_MODEL, replacing, require_target
from ..progress import Step
from .console import Console


def run(args: argparse.Namespace, console: Console) -> None:
    """List what there is, or download what is named."""
    url = args.url or catalog.BASE_URL
    if not args.names:
        _list(args.kind, args.online, url, console)
        return
    folder = None if args.output is None else Path(args.output)
    if folder is not None and not folder.is_dir():
        raise UsageError(f"{folder} is no folder.")
    kinds = (DATASET, ()) if args.kind == "dataset" else (MODEL, (SGDML_MODEL,))
    for name in args.names:
        if folder is not None:
            require_target(folder / f"{name}.npz", *kinds)
            if (folder / f"{name}.npz").exists() and not args.overwrite:
                raise UsageError(f"'{folder / name}.npz' exists. Give --overwrite to replace it.")
    for name in args.names:
        step = Step(console.progress, f"Downloading {name}")
        path = catalog.download(args.kind, name, url, lambda n, total, step=step: step(n, total))  # type: ignore[misc]
        step.done()
        if folder is not None:
            with replacing(folder / f"{name}.npz", *kinds) as file, open(path, "rb") as source:
                shutil.copyfileobj(source, file)
            path = folder / f"{name}.npz"
        console.done(f"'{path}'")
        if args.kind == "dataset" and folder is None:
            console.info(f"Its name, {name}, now stands for this file in all commands.")
        console.result({"kind": args.kind, "name": name, "path": str(path)})


def _list(wanted: str | None, online: bool, url: str, console: Console) -> None:
    here = {kind: catalog.downloaded(kind) for kind in ("dataset", "model")}
    result: dict[str, object] = {"examples": sorted(catalog.embedded_datasets())}
    if wanted in (None, "dataset"):
        console.heading("Examples that come with fastgdml")
        console.properties([(name, str(path)) for name, path in catalog.embedded_datasets().items()])
    for kind in ("dataset", "model") if wanted is None else (wanted,):
        console.heading(f"Published {kind}s (fastgdml get {kind} <name>)")
        items = catalog.published_online(kind, url) if online else catalog.published(kind)
        rows = []
        for item in items:
            size = "" if item.size is None else f"{item.size / 2**20:,.1f} MB"
            rows.append((item.name, f"downloaded: {here[kind][item.name]}" if item.name in here[kind] else size))
        rows += [(name, f"downloaded: {path}") for name, path in here[kind].items() if name not in dict(rows)]
        console.properties(rows)
        if not rows:
            console.text("  The server lists them: --online")
        result[f"{kind}s"] = [name for name, _ in rows]
        result[f"downloaded_{kind}s"] = {name: str(path) for name, path in here[kind].items()}
    console.result(result)
