"""Fuzzing of the readers of files in Python: bytes as an archive, a flat model, a trajectory.

    python fuzz_readers.py SECONDS [FOLDER]

Files of each kind, damaged: bytes changed, archives whose members have other contents, text with other words. A reader
takes a file or raises an error of fastgdml; anything else is a fault, and its input is kept in FOLDER. With atheris
(`pip install atheris`) the fuzzer is guided by what the code of the readers does; without it the damage is random,
which it says.
"""

from __future__ import annotations

import contextlib
import io
import logging
import random
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from pathlib import Path

try:
    import atheris
except ImportError:
    atheris = None

with atheris.instrument_imports(include=["fastgdml"]) if atheris else contextlib.nullcontext():
    from fastgdml.dataset import create_dataset, load_dataset, save_dataset
    from fastgdml.errors import FastGDMLError
    from fastgdml.flat import export_flat, load_flat
    from fastgdml.formats import ReadOptions, open_frames
    from fastgdml.model import load_model, save_model
    from fastgdml.task import load_task, save_task
    from fastgdml.train import GDMLTrain

import numpy as np

WORDS = [
    b"-1",
    b"0",
    b"1e308",
    b"nan",
    b"inf",
    b"1e-320",
    b"",
    b"\x80\x04.",
    b"99999999999",
    b"\xff",
    b"<f8",
    b"|O",
    b"True",
]


def read_frames(path):
    with open_frames(path, ReadOptions()) as source:
        for _, _ in zip(source.chunks(), range(3), strict=False):
            pass


READERS = {
    "dataset.npz": load_dataset,
    "task.npz": load_task,
    "model.npz": load_model,
    "model.fgdml": load_flat,
    "frames.xyz": read_frames,
}


def make_files(folder):
    """Write a small valid file of each kind."""
    rng = np.random.default_rng(0)
    z = np.array([8, 1, 1])
    R = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]) + 0.05 * rng.normal(size=(40, 3, 3))
    dataset = create_dataset(
        "water", "none", z, R, rng.normal(size=R.shape), rng.normal(size=40), r_unit="Ang", e_unit="eV"
    )
    save_dataset(folder / "dataset.npz", dataset)
    trainer = GDMLTrain(max_processes=1)
    task = trainer.create_task(dataset, 5, dataset, 5, sig=5, seed=0)
    save_task(folder / "task.npz", task)
    model = trainer.train(task)
    save_model(folder / "model.npz", model)
    export_flat(folder / "model.fgdml", model)
    frames = [
        f"3\nenergy={e}\n" + "".join(f"H {x} {y} {w}\n" for x, y, w in r) for e, r in zip(range(3), R[:3], strict=True)
    ]
    (folder / "frames.xyz").write_text("".join(frames))


def rebuilt(data, rng):
    """An archive with one of its members changed, its checksums right."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    at = rng.randrange(len(members))
    name, content = members[at]
    kind = rng.randrange(6)
    if kind == 0:
        del members[at]
    elif kind == 1:
        members[at] = name, members[rng.randrange(len(members))][1]
    elif kind == 2:
        members.append((rng.choice([name, "new.npy", "../x.npy", "x"]), content))
    else:
        members[at] = name, damaged(content, rng)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for each, value in members:
            archive.writestr(each, value)
    return out.getvalue()


def damaged(data, rng):
    """Bytes with a part changed, left out, doubled, or replaced by a word."""
    at, length = rng.randrange(len(data) + 1), rng.randrange(1, 9)
    kind = rng.randrange(5)
    if kind == 0:
        return data[:at] + bytes(rng.randrange(256) for _ in range(length)) + data[at + length :]
    if kind == 1:
        return data[:at] + data[at + length :]
    if kind == 2:
        return data[: at + length] + data[at:]
    if kind == 3:
        return data[:at]
    word = rng.choice(WORDS)
    return data[:at] + word + data[at + len(word) :]


def sealed(data):
    """A flat model with its checksum right."""
    return data[:24] + zlib.crc32(data[28:]).to_bytes(4, "little") + data[28:]


def spoil(name, data, rng):
    """A file like `data`, damaged."""
    for _ in range(rng.randrange(1, 4)):
        if name.endswith(".npz") and rng.random() < 0.8:
            with contextlib.suppress(Exception):  # damaged already: encrypted now, or no archive
                data = rebuilt(data, rng)
        else:
            data = damaged(data, rng)
        if name.endswith(".fgdml") and rng.random() < 0.9:
            data = sealed(data)
    return data


class Fuzzer:
    """Damages files, has them read, and counts."""

    def __init__(self, folder, keep):
        self.folder, self.keep = folder, keep
        self.files = {name: (folder / name).read_bytes() for name in READERS}
        self.runs = self.read = self.found = 0

    def one(self, seed):
        rng = random.Random(seed)
        name = rng.choice(list(READERS))
        data = spoil(name, self.files[name], rng)
        path = self.folder / f"damaged{Path(name).suffix}"
        path.write_bytes(data)
        self.runs += 1
        try:
            READERS[name](str(path))
            self.read += 1
        except FastGDMLError:
            pass
        except Exception as error:
            self.found += 1
            kept = self.keep / f"reader-{self.found}-{name}"
            kept.write_bytes(data)
            print(f"FOUND {type(error).__name__}: {error}; kept as {kept}", flush=True)
            raise


def main():
    seconds, keep = float(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else ".")
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_files(folder)
        fuzzer = Fuzzer(folder, keep)
        if atheris is None:
            print("without atheris: the damage is random, not guided by coverage")
            end, seed = time.monotonic() + seconds, 0
            while time.monotonic() < end:
                fuzzer.one(seed)
                seed += 1
        else:
            # Atheris ends the process by itself, so what it did is told as it goes.
            def test(data):
                fuzzer.one(data)
                if fuzzer.runs % 1000 == 0:
                    print(f"{fuzzer.runs} runs, {fuzzer.read} files read", flush=True)

            atheris.Setup(
                [sys.argv[0], f"-max_total_time={int(seconds)}", "-max_len=64", "-print_final_stats=1", "-seed=1"], test
            )
            atheris.Fuzz()
        print(f"Done {fuzzer.runs} runs in {seconds:g} seconds, {fuzzer.read} files read")


if __name__ == "__main__":
    main()
