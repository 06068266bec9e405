"""From names to files: of datasets here, shipped or downloaded, and of what sgdml's server publishes.

Nothing here touches the network unless it is asked to. Downloads go through pooch, over HTTPS, and are checked against
known hashes. Of a file whose hash is not known the first download is trusted: its hash is recorded in the cache folder,
said in the log, and later downloads must have it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

from .errors import FileFormatError, UsageError
from .files import path_type
from .npz import load_npz, text, type_of

_log = logging.getLogger(__name__)

BASE_URL = "https://www.quantum-machine.org/gdml/"
_FOLDERS = {"dataset": "data/npz/", "model": "models/"}
# A cut loses what of a block had arrived.
_BLOCK = 1 << 13
_RECORD = "hashes.json"


@dataclass(frozen=True)
class Published:
    """A file on the server.

    Attributes
    ----------
    kind : {'dataset', 'model'}
    name : str
        Its name without ending.
    path : str
        Where it is, below the server's base address.
    sha256 : str or None
        The known hash of its content.
    size : int or None
        Size in bytes, where the server told it.
    """

    kind: str
    name: str
    path: str
    sha256: str | None = None
    size: int | None = None


_MD17 = (
    "md17_aspirin md17_benzene2017 md17_ethanol md17_malonaldehyde md17_naphthalene md17_salicylic md17_toluene "
    "md17_uracil azobenzene_dft benzene2018_dft paracetamol_dft"
)
_MD22 = "Ac-Ala3-NHMe DHA stachyose AT-AT AT-AT-CG-CG buckyball-catcher double-walled_nanotube"
_DATASETS = {
    **dict.fromkeys(_MD17.split(), _FOLDERS["dataset"]),
    **{f"md22_{name}": "repo/datasets/" for name in _MD22.split()},
}
# None is known yet. Whoever has a trusted copy can add its SHA-256 here, by the path below the server's address.
_KNOWN: dict[str, str] = {}


def published(kind: str) -> list[Published]:
    """Return the files known to be on sgdml's server, as of this version; models are listed by the server alone."""
    if kind == "model":
        return []
    return [
        Published("dataset", name, f"{folder}{name}.npz", _KNOWN.get(f"{folder}{name}.npz"))
        for name, folder in _DATASETS.items()
    ]


def published_online(kind: str, url: str = BASE_URL, timeout: float = 20.0) -> list[Published]:
    """Ask the server for its list.

    Raises
    ------
    FileFormatError
        If it cannot be reached, or answers something else.
    UsageError
        If pooch, which brings what downloads take, is missing.
    """
    requests = _requests()
    address = f"{_checked(url)}get.php?{kind}"
    try:
        with requests.get(address, timeout=timeout) as answer:
            _require_found(answer, address, f"a list of {kind}s")
            listed = answer.text.strip()
    except requests.RequestException as error:
        raise _unreachable(address, error) from None
    entries = re.findall(r"([\w.+-]+),(\d+)(?:;|$)", listed)
    if not entries or ";".join(f"{name},{size}" for name, size in entries) != listed.rstrip(";"):
        raise FileFormatError(f"{address} answered something else than a list: '{listed[:60]}'.")
    return [
        Published(kind, name, path, _KNOWN.get(path), int(size))
        for name, size in entries
        for path in [f"{_FOLDERS[kind]}{name}.npz"]
    ]


def cache_folder() -> Path:
    """Return the folder of downloads: FASTGDML_CACHE, or the system's place for caches."""
    own = os.environ.get("FASTGDML_CACHE")
    if own:
        return Path(own)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "fastgdml"


def downloaded(kind: str) -> dict[str, Path]:
    """Return the files that were downloaded, by name."""
    return {path.stem: path for path in sorted((cache_folder() / f"{kind}s").glob("*.npz"))}


def download(
    kind: str,
    name: str,
    url: str = BASE_URL,
    progress: Callable[[int, int], None] | None = None,
    timeout: float = 20.0,
) -> Path:
    """Download a dataset or model, unless it is in the cache folder already.

    Parameters
    ----------
    kind : {'dataset', 'model'}
    name : str
        Name of the file on the server, without .npz.
    url : str
        Address of the server, https (http only of this machine itself).
    progress : callable, optional
        Called with (bytes there, all bytes).
    timeout : float
        Seconds without an answer or any data after which the download is given up.

    Returns
    -------
    Path
        The file in the cache folder.

    Raises
    ------
    FileFormatError
        If the server cannot be reached or does not have the file, the download breaks off, or its content is another
        than expected. What arrived is kept, and the next call goes on from there.
    UsageError
        If pooch is missing or the address is not https.
    """
    if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
        raise UsageError(f"'{name}' is no name of a {kind}.")
    entry = next((item for item in published(kind) if item.name == name), None)
    path = entry.path if entry is not None else f"{_FOLDERS[kind]}{name}.npz"
    address = _checked(url) + quote(path)
    folder = cache_folder() / f"{kind}s"
    pooch = _pooch()
    record = folder / _RECORD
    hashes = _recorded(record)
    known = (entry.sha256 if entry is not None else None) or hashes.get(address)
    target = folder / f"{name}.npz"
    fetched = not target.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = pooch.retrieve(
            address,
            known_hash=None if known is None else f"sha256:{known}",
            fname=target.name,
            path=folder,
            downloader=_Downloader(folder / f"{name}.npz.part", f"{kind} '{name}'", progress, timeout),
        )
    except ValueError as error:  # pooch's complaint about a hash
        if "hash" not in str(error).lower():
            raise
        raise FileFormatError(
            f"{address} has another content than expected: its hash is not sha256:{known}. Nothing was kept. If the "
            f"publishers replaced the file, remove its line from {record}."
        ) from None
    except OSError as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(f"{folder} cannot be written: {error.strerror or error}.") from None
    if fetched and known is None:
        digest = pooch.file_hash(found, alg="sha256")
        hashes[address] = digest
        temporary = record.with_suffix(".tmp")
        temporary.write_text(json.dumps(hashes, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(temporary, record)
        _log.info(
            "No hash of %s is known: this first download is trusted. Its hash, sha256:%s, is recorded in %s; later "
            "downloads must have it.",
            address,
            digest,
            record,
        )
    return Path(found)


class _Downloader:
    """Downloads for pooch, and goes on where an earlier download of the same file was cut."""

    def __init__(self, part: Path, what: str, progress: Callable[[int, int], None] | None, timeout: float) -> None:
        self._part = part
        self._what = what
        self._progress = progress
        self._timeout = timeout

    def __call__(self, url: str, output_file: str, _: Any, check_only: bool = False) -> bool | None:
        requests = _requests()
        note = self._part.with_suffix(".part.json")
        there = self._part.stat().st_size if self._part.exists() else 0
        mark = _recorded(note).get("version", "")
        headers = {"Accept-Encoding": "identity"}
        if there and mark:
            headers |= {"Range": f"bytes={there}-", "If-Range": mark}
        total = 0
        try:
            with requests.get(url, headers=headers, stream=True, timeout=self._timeout) as answer:
                _require_found(answer, url, self._what)
                going_on = answer.status_code == 206
                if not going_on:
                    there = 0
                total = there + int(answer.headers.get("Content-Length") or 0)
                version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
                if version.startswith("W/"):
                    version = answer.headers.get("Last-Modified") or ""
                note.write_text(json.dumps({"version": version}), encoding="utf-8")
                with open(self._part, "ab" if going_on else "wb") as file:
                    for block in answer.iter_content(_BLOCK):
                        file.write(block)
                        there += len(block)
                        if self._progress is not None:
                            self._progress(there, total)
        except requests.RequestException as error:
            if there or total:
                raise FileFormatError(_cut(url, there, total)) from None
            raise _unreachable(url, error) from None
        if total and there < total:
            raise FileFormatError(_cut(url, there, total))
        os.replace(self._part, output_file)
        note.unlink(missing_ok=True)
        return None


def _cut(url: str, there: int, total: int) -> str:
    of = f" of {total:,}" if total else ""
    return f"The download of {url} broke off after {there:,}{of} bytes. The same command goes on from there."


def _require_found(answer: Any, url: str, what: str) -> None:
    if answer.status_code == 404:
        raise FileFormatError(f"{url}: the server has no {what} (404). 'fastgdml get --online' prints what there is.")
    if answer.status_code not in (200, 206):
        raise FileFormatError(f"{url}: the server answered {answer.status_code} {answer.reason}. Try again later.")


def _unreachable(url: str, error: Exception) -> FileFormatError:
    host = urlsplit(url).netloc
    why = "it does not answer in time" if "timed out" in str(error).lower() else type(error).__name__
    return FileFormatError(
        f"{host} cannot be reached ({why}). Is there a network? Shipped examples and files that were downloaded before "
        "need none: 'fastgdml get' lists them."
    )


def _checked(url: str) -> str:
    parts = urlsplit(url)
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if not (parts.scheme == "https" or (parts.scheme == "http" and local)) or not parts.netloc:
        raise UsageError(f"{url}: downloads are made over https only.")
    return url if url.endswith("/") else url + "/"


def _recorded(path: Path) -> dict[str, str]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in values.items()} if isinstance(values, dict) else {}


def _pooch() -> Any:
    try:
        import pooch
    except ImportError:
        raise UsageError("Downloads take pooch: pip install 'fastgdml[get]'") from None
    pooch.get_logger().setLevel("WARNING")
    return pooch


def _requests() -> Any:
    try:
        import requests
    except ImportError:
        raise UsageError("Downloads take pooch: pip install 'fastgdml[get]'") from None
    return requests


# ---- files of datasets -------------------------------------------------------------------------------------------


def embedded_datasets() -> dict[str, Path]:
    """Return the example datasets shipped with fastgdml: paths by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "data").glob("*.npz"))}


def resolve_dataset(source: str | os.PathLike[str]) -> Path:
    """Return the file that a dataset argument means; see `fastgdml.dataset.load_dataset`.

    Raises
    ------
    FileFormatError
        If there is none.
    """
    path, what = Path(source), path_type(source)
    if what == "file":
        return path
    if re.fullmatch(r"[0-9a-f]{32}", path.name):
        return _find_by_fingerprint(path.parent, path.name)
    embedded = embedded_datasets()
    with_suffix = path.with_name(path.name + ".npz") if path.name else path
    if with_suffix.name and path_type(with_suffix) == "file":
        if str(source) in embedded:
            _log.info("'%s' is the file %s here, not the shipped example of that name.", source, with_suffix)
        return with_suffix
    if str(source) in embedded:
        return embedded[str(source)]
    cached = downloaded("dataset")
    if str(source) in cached:
        return cached[str(source)]
    if what != "nothing":
        raise FileFormatError(f"{source} is a {what}; a dataset file is needed.")
    raise FileFormatError(
        f"{source}: no such dataset file, and no shipped example of that name (there are: {', '.join(embedded)})."
        + (f" Downloaded are: {', '.join(cached)}." if cached else "")
        + (f" 'fastgdml get dataset {source}' downloads it." if _is_published(str(source)) else "")
    )


def _is_published(name: str) -> bool:
    return any(item.name == name for item in published("dataset"))


def _find_by_fingerprint(folder: Path, fingerprint: str) -> Path:
    if not folder.is_dir():
        raise FileFormatError(f"{folder}: no such folder to look for a dataset with fingerprint {fingerprint}.")
    found = []
    for path in sorted(folder.glob("*.npz")):
        try:
            entries = load_npz(path, {"type", "md5", "md5_aliases"})
        except FileFormatError as error:
            _log.warning("Skipped while looking for fingerprint %s: %s", fingerprint, error)
            continue
        if type_of(entries, "d") == "d" and fingerprint.encode() in recorded_fingerprints(entries):
            found.append(path)
    if len(found) != 1:
        what = "No dataset" if not found else f"{len(found)} datasets ({', '.join(p.name for p in found)})"
        raise FileFormatError(f"{what} with fingerprint {fingerprint} in {folder}. Give the file name.")
    return found[0]


def recorded_fingerprints(dataset: Mapping[str, Any]) -> set[bytes]:
    """Return the fingerprints that a dataset records: of its arrays, and those under which it is known besides."""
    values = [dataset.get("md5"), *np.ravel(dataset.get("md5_aliases", ())).tolist()]
    return {fingerprint_bytes(value) for value in values if value is not None} - {b""}


def fingerprint_bytes(md5: Any) -> bytes:
    """Return an md5 entry, of bytes or text, as bytes."""
    return text(md5).strip().encode("ascii", "replace")
