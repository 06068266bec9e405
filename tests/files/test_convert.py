"""Conversion of datasets: lossless, in order, checked in every frame, in little memory, never half written."""

import json
import os
import signal
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import ase.io
import numpy as np
import pytest
from support import format_files
from support.molecules import random_molecules

from fastgdml.cli import main
from fastgdml.convert import convert
from fastgdml.dataset import create_dataset, dataset_md5, load_dataset, save_dataset
from fastgdml.errors import DataError, FileFormatError, UsageError
from fastgdml.formats import Facts, Frames, ReadOptions
from fastgdml.formats.xyz import xyz_frames
from fastgdml.reading import Reader, UnitOptions
from fastgdml.rearrange import dedup, draw, shuffle, split, thin
from fastgdml.writing import Sink, WriteOptions

REAL = ["md17_ethanol_2000", "emt_cu111", "xtb_aspirin"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTGDML_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def water(here):
    """A dataset of 60 frames of water with symmetry, units, name and theory, in a file."""
    R = random_molecules(60, 3, seed=4)
    F = np.random.default_rng(1).normal(size=R.shape)
    data = create_dataset("water box", "PBE/def2-SVP", [8, 1, 1], R, F, F[:, 0, 0], None, "Ang", "kcal/mol")
    data["perms"] = np.array([[0, 1, 2], [0, 2, 1]])
    save_dataset(here / "water.npz", data)
    return data


def leftovers(folder):
    """Files that are not there for anyone."""
    return [name for name in os.listdir(folder) if name.endswith((".part", ".tmp"))]


def same(one, other, but=()):
    """Whether two datasets are equal in every entry, to the last bit."""
    assert set(one) - set(but) == set(other) - set(but)
    for key in set(one) - set(but):
        np.testing.assert_array_equal(one[key], other[key], err_msg=key)


# ---- round trips --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REAL)
def test_real_data_through_xyz_and_back(here, shared, name):
    """To extended XYZ and back: every bit, and the fingerprint."""
    units = UnitOptions("kcal/mol", "Ang") if name != "emt_cu111" else None
    report = convert([shared(f"data/{name}.npz")], "a.npz", units=units)
    convert(["a.npz"], "a.xyz")
    again = convert(["a.xyz"], "b.npz")
    first, second = load_dataset("a.npz"), load_dataset("b.npz")
    # the fingerprint depends on the type of the atomic numbers, which XYZ does not have
    same(first, second, but=("md5", "md5_aliases") if first["z"].dtype != np.int64 else ())
    for part, dataset in ((report, first), (again, second)):
        assert part.files[0].fingerprint == dataset["md5"].item().decode() == dataset_md5(dataset).decode()
    stored = load_dataset(shared(f"data/{name}.npz"))
    for key in ("R", "F", "E", "lattice"):
        if key in stored:
            np.testing.assert_array_equal(first[key], stored[key])
    for key in ("E", "F"):
        np.testing.assert_allclose(first[f"{key}_var"], stored[key].var(), rtol=1e-12)
        np.testing.assert_allclose(first[f"{key}_mean"], stored[key].mean(), rtol=1e-9, atol=1e-12)
        assert first[f"{key}_min"] == stored[key].min()
    assert not leftovers(here)


def test_everything_that_is_recorded_survives(water, here):
    convert(["water.npz"], "a.xyz")
    convert(["a.xyz"], "b.npz")
    same(load_dataset("water.npz"), load_dataset("b.npz"))


def test_written_npz_is_the_same_as_saved(water, here):
    convert(["water.npz"], "b.npz")
    with np.load("water.npz") as one, np.load("b.npz") as other:
        assert set(one) == set(other)
        for key in one:
            assert one[key].dtype.kind == other[key].dtype.kind
            np.testing.assert_allclose(one[key], other[key]) if one[key].dtype.kind == "f" else None
        assert other["md5"] == dataset_md5(dict(other))
    assert zipfile.ZipFile("b.npz").testzip() is None


def test_trajectories_of_ase(here, shared):
    """To ASE's units and back, within rounding; the cell is converted, too."""
    convert([shared("data/emt_cu111.npz")], "a.npz", units=UnitOptions(to_e_unit="kcal/mol", to_r_unit="Bohr"))
    convert(["a.npz"], "a.traj")
    original, converted = load_dataset(shared("data/emt_cu111.npz")), load_dataset("a.npz")
    np.testing.assert_allclose(converted["lattice"] * 0.529177210903, original["lattice"], rtol=1e-12)
    np.testing.assert_allclose(converted["F"] * (0.043364104241800934 / 0.529177210903), original["F"], rtol=1e-10)
    frames = ase.io.read("a.traj", index="::100")
    for atoms, i in zip(frames, range(0, 1000, 100), strict=True):
        np.testing.assert_allclose(atoms.positions, original["R"][i], rtol=1e-12)
        np.testing.assert_allclose(atoms.cell.array.T, original["lattice"], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(atoms.get_potential_energy(), original["E"][i], rtol=1e-12)
        np.testing.assert_allclose(atoms.get_forces(), original["F"][i], rtol=1e-10, atol=1e-13)
    convert(["a.traj"], "b.npz")
    np.testing.assert_allclose(load_dataset("b.npz")["F"], original["F"], rtol=1e-10, atol=1e-13)


def test_cells_of_every_frame(here):
    R = random_molecules(40, 4)
    lattice = 20 * np.eye(3) + np.random.default_rng(0).uniform(-0.1, 0.1, (40, 3, 3))
    save_dataset("a.npz", create_dataset("x", "y", [1, 1, 8, 8], R, R, R[:, 0, 0], lattice, "Ang", "eV"))
    convert(["a.npz"], "a.xyz")
    convert(["a.xyz"], "b.npz")
    same(load_dataset("a.npz"), load_dataset("b.npz"))
    assert load_dataset("b.npz")["lattice"].shape == (40, 3, 3)


# ---- units ------------------------------------------------------------------------------------------------------


def test_units_are_converted_together(water, here):
    report = convert(["water.npz"], "a.npz", units=UnitOptions(to_e_unit="eV", to_r_unit="Bohr"))
    a = load_dataset("a.npz")
    assert (report.e_unit, report.r_unit) == (str(a["e_unit"]), str(a["r_unit"])) == ("eV", "Bohr")
    e, r = 0.043364104241800934, 1 / 0.529177210903
    np.testing.assert_allclose(a["E"], water["E"] * e, rtol=1e-9)
    np.testing.assert_allclose(a["R"], water["R"] * r, rtol=1e-9)
    np.testing.assert_allclose(a["F"], water["F"] * e / r, rtol=1e-9)


def test_units_of_forces_of_their_own(here):
    z, R = np.array([8, 1, 1]), random_molecules(4, 3)
    format_files.write_cp2k(here, z, R, R[:, 0, 0], R)
    read = ReadOptions(forces_file="md-frc-1.xyz")
    convert(["md-pos-1.xyz"], "a.npz", read, UnitOptions(to_e_unit="eV"))
    a = load_dataset("a.npz")
    np.testing.assert_allclose(a["F"], R, atol=2e-7)
    np.testing.assert_allclose(a["E"], R[:, 0, 0], atol=2e-8)
    np.savez("mixed.npz", z=z, R=R, E=R[:, 0, 0], F=R)
    convert(["mixed.npz"], "b.npz", units=UnitOptions("Hartree", "Ang", "Hartree/Bohr"))
    np.testing.assert_allclose(load_dataset("b.npz")["F"], R / 0.529177210903, rtol=1e-9)


def test_units_that_contradict_each_other(water, here):
    with pytest.raises(UsageError, match=r"records e_unit 'kcal/mol', but --e_unit says 'eV'.*--to eV"):
        convert(["water.npz"], "a.npz", units=UnitOptions("eV"))
    convert(["water.npz"], "a.npz", units=UnitOptions("kcal mol-1", "Angstrom"))
    np.savez("bare.npz", **{key: water[key] for key in "zREF"})
    with pytest.raises(UsageError, match=r"does not record its unit of energy.*--e_unit"):
        convert(["bare.npz"], "b.npz", units=UnitOptions(to_e_unit="eV"))
    with pytest.raises(UsageError, match="is no known unit of energy"):
        convert(["bare.npz"], "b.npz", units=UnitOptions("parsec"))
    with pytest.raises(UsageError, match="first source does not record"):
        convert(["bare.npz", "water.npz"], "b.npz")
    assert not os.path.exists("b.npz")
    assert not leftovers(here)


def test_merged_sources_get_the_units_of_the_first(water, here):
    convert(["water.npz"], "ev.xyz", units=UnitOptions(to_e_unit="eV"))
    report = convert(["water.npz", "ev.xyz"], "both.npz")
    both = load_dataset("both.npz")
    assert [source.n_frames for source in report.sources] == [60, 60]
    np.testing.assert_allclose(both["E"][60:], water["E"], rtol=1e-14)
    np.testing.assert_array_equal(both["E"][:60], water["E"])


# ---- checks of every frame ----------------------------------------------------------------------------------------


def xyz(z, R, E=None, F=None):
    return xyz_frames(Frames(0, np.asarray(z), R, E, F), Facts("eV", "Ang"))


def test_other_atoms_are_refused_or_split(here):
    R = random_molecules(3, 3)
    E, pair = R[:, 0, 0], R[:, :2]
    text = xyz([8, 1, 1], R, E, R) + xyz([1, 8, 1], R, E, R) + xyz([6, 8], pair, E, pair)
    with open("x.xyz", "w") as file:
        file.write(text + xyz([8, 1, 1], R, R[:, 0, 0], R))
    with pytest.raises(DataError, match=r"x\.xyz, frame 3 .*same atoms in another order.*first difference: atom 0"):
        convert(["x.xyz"], "a.npz")
    assert os.listdir() == ["x.xyz"]
    report = convert(["x.xyz"], "a.npz", write=WriteOptions(split_by_formula=True))
    found = {file.path: (file.n_frames, file.formula) for file in report.files}
    assert found == {"a-H2O.npz": (6, "H2O"), "a-H2O-order2.npz": (3, "H2O"), "a-CO.npz": (3, "CO")}
    assert load_dataset("a-H2O-order2.npz")["z"].tolist() == [1, 8, 1]
    with pytest.raises(UsageError, match="exists"):
        convert(["x.xyz"], "a.npz", write=WriteOptions(split_by_formula=True))
    assert not leftovers(here)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda R, E, F: R.__setitem__((41, 1, 2), np.nan), r"frame 41 .*position of atom 1 is not finite"),
        (lambda R, E, F: F.__setitem__((42, 2, 0), np.inf), r"frame 42 .*force of atom 2 is not finite"),
        (lambda R, E, F: E.__setitem__(43, np.nan), r"frame 43 .*energy is not finite"),
        (lambda R, E, F: R.__setitem__((44, 1), R[44, 0]), r"frame 44 .*at the same place"),
    ],
)
def test_wrong_numbers_are_found_with_their_frame(here, change, message):
    R = random_molecules(60, 3)
    F, E = R.copy(), R[:, 0, 0].copy()
    change(R, E, F)
    np.savez("a.npz", z=[8, 1, 1], R=R, E=E, F=F)
    with pytest.raises(DataError, match=message):
        convert(["a.npz"], "b.xyz")
    with pytest.raises(DataError, match=message):
        convert(["a.npz"], "b.npz")
    assert os.listdir() == ["a.npz"]


@pytest.mark.parametrize(
    ("entries", "message"),
    [({"z": [0, 1, 200]}, "atomic numbers are from 1 to 118"), ({"perms": [[0, 0, 1]]}, r"a\.npz: .*perm")],
)
def test_wrong_entries_leave_nothing(here, entries, message):
    R = random_molecules(5, 3)
    np.savez("a.npz", **{"z": [8, 1, 1], "R": R, "F": R, **entries})
    with pytest.raises(DataError, match=message):
        convert(["a.npz"], "b.npz")
    assert os.listdir() == ["a.npz"]


def test_frame_numbers_count_in_their_own_source(here):
    R = random_molecules(10, 3)
    np.savez("a.npz", z=[8, 1, 1], R=R, E=R[:, 0, 0], F=R)
    R = R.copy()
    R[7, 0, 0] = np.nan
    np.savez("b.npz", z=[8, 1, 1], R=R, E=R[:, 0, 0], F=R)
    with pytest.raises(DataError, match=r"b\.npz, frame 7 "):
        convert(["a.npz", "b.npz"], "c.npz")


def test_labels_and_cells_that_only_some_frames_have(here):
    R = random_molecules(2, 2)
    with open("x.xyz", "w") as file:
        file.write(xyz([1, 8], R, R[:, 0, 0], R).replace("\nProp", '\nLattice="9 0 0 0 9 0 0 0 9" Prop', 1))
    with pytest.raises(DataError, match=r"frame 1 .*no cell, the frames before have one.*--no_cell"):
        convert(["x.xyz"], "a.npz")
    convert(["x.xyz"], "a.npz", ReadOptions(cell=False))
    with open("y.xyz", "w") as file:
        file.write(xyz([1, 8], R, R[:, 0, 0]))
    with pytest.raises(DataError, match=r"frame 0 .*no forces, which a dataset must have"):
        convert(["y.xyz"], "b.npz")
    convert(["y.xyz"], "b.xyz")
    convert(["x.xyz"], "noE.npz", ReadOptions(cell=False, use_E=False))
    with pytest.raises(DataError, match=r"no energies, frames before have some. Give --no_E"):
        convert(["a.npz", "noE.npz"], "c.npz")
    assert not leftovers(here)


# ---- order and number -----------------------------------------------------------------------------------------------


def rows_of(path, water):
    """Which frames of the water dataset a file has."""
    found = load_dataset(path)["R"][:, 0, 0]
    index = {value: i for i, value in enumerate(water["R"][:, 0, 0])}
    return [index[value] for value in found]


def test_thinning(water, here):
    assert thin(["water.npz"], "a.npz", every=7).n_removed == 51
    assert rows_of("a.npz", water) == list(range(0, 60, 7))
    draw(["water.npz"], "b.npz", 20, seed=3)
    rows = rows_of("b.npz", water)
    assert rows == sorted(set(rows))
    assert len(rows) == 20
    draw(["water.npz"], "c.npz", 20, seed=3)
    same(load_dataset("b.npz"), load_dataset("c.npz"), but=("name",))
    with pytest.raises(UsageError, match="61 points asked for"):
        draw(["water.npz"], "d.npz", 61)
    assert not leftovers(here)


def test_shuffling(water, here):
    shuffle(["water.npz"], "a.npz", seed=1)
    rows = rows_of("a.npz", water)
    assert sorted(rows) == list(range(60))
    assert rows != sorted(rows)
    a = load_dataset("a.npz")
    for key in "REF":
        np.testing.assert_array_equal(a[key], water[key][rows])
    assert a["md5"] == dataset_md5(a)


def test_splitting(water, here):
    split(["water.npz"], [("a.npz", 10), ("b.npz", 0.5), ("c.npz", None)], seed=2)
    parts = [rows_of(name, water) for name in ("a.npz", "b.npz", "c.npz")]
    assert [len(part) for part in parts] == [10, 30, 20]
    assert sorted(row for part in parts for row in part) == list(range(60))
    split(["water.npz"], [("d.npz", 5), ("e.npz", 7)], seed=None)
    assert rows_of("e.npz", water) == list(range(5, 12))
    with pytest.raises(UsageError, match="ask for 61 frames; there are 60"):
        split(["water.npz"], [("f.npz", 60), ("g.npz", 1)])
    with pytest.raises(UsageError, match="same file name"):
        split(["water.npz"], [("f.npz", 6), ("f.npz", 1)])
    assert not leftovers(here)
    assert not os.path.exists("f.npz")


def test_duplicates_are_removed(water, here):
    """Copies that are turned, moved, mirrored or with like atoms exchanged; the first stays."""
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    R = np.concatenate([water["R"], water["R"][5:8] @ turn + 1, water["R"][9:11][:, [0, 2, 1]], water["R"][:1]])
    np.savez("a.npz", z=water["z"], R=R, E=R[:, 0, 0], F=R)
    report = dedup(["a.npz"], "b.npz")
    assert report.n_removed == 4
    np.testing.assert_array_equal(load_dataset("b.npz")["R"], R[[*range(60), 63, 64]])
    np.savez("a.npz", z=water["z"], R=R, E=R[:, 0, 0], F=R, perms=water["perms"])
    assert dedup(["a.npz"], "c.npz").n_removed == 6
    np.testing.assert_array_equal(load_dataset("c.npz")["R"], R[:60])


def test_many_copies_of_one_frame(here):
    R = np.concatenate([random_molecules(1, 3).repeat(3000, axis=0), random_molecules(5, 3, seed=1)])
    np.savez("a.npz", z=[8, 1, 1], R=R, F=R)
    dedup(["a.npz"], "b.npz")
    assert len(load_dataset("b.npz")["R"]) == 6


# ---- files that are there, and runs that are cut off ----------------------------------------------------------------


def test_files_are_not_overwritten(water, here):
    convert(["water.npz"], "a.npz")
    before = Path("a.npz").read_bytes()
    with pytest.raises(UsageError, match=r"'a\.npz' exists. Give --overwrite"):
        convert(["water.npz"], "a.npz")
    with open("notes.xyz", "wb") as file:
        file.write(b"\x89PNG")
    with pytest.raises(FileFormatError, match="is a picture"):
        convert(["water.npz"], "notes.xyz", write=WriteOptions(overwrite=True))
    with pytest.raises(UsageError, match="is a source"):
        convert(["a.npz"], "a.npz", write=WriteOptions(overwrite=True))
    assert Path("a.npz").read_bytes() == before
    convert(["water.npz"], "a.npz", write=WriteOptions(overwrite=True, name="new"))
    assert str(load_dataset("a.npz")["name"]) == "new"
    with pytest.raises(FileFormatError, match="there is no folder 'none'"):
        convert(["water.npz"], "none/a.npz")
    with pytest.raises(UsageError, match="in which format"):
        convert(["water.npz"], "a.foo")


CUT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell has it ignored
from fastgdml import convert as module
from fastgdml.formats.npz import Spool
append, n = Spool.append, 0
def slow(self, frames):
    append(self, frames)
    print(self.n, flush=True)
    time.sleep(0.2)
Spool.append = slow
module.convert([sys.argv[1]], sys.argv[2])
"""


@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_killed_conversion_is_finished(here, shared, how):
    source = str(shared("data/xtb_ethanol.npz"))
    run = subprocess.Popen([sys.executable, "-c", CUT, source, "a.npz"], stdout=subprocess.PIPE, text=True)
    for line in run.stdout:
        if int(line) >= 2000:
            break
    run.send_signal(getattr(signal, how))
    run.stdout.close()
    assert run.wait(30) != 0
    assert os.listdir() == ["a.npz.part"]
    with pytest.raises(FileFormatError, match=r"unfinished conversion left. Give --resume"):
        convert([source], "a.npz")
    with pytest.raises(FileFormatError, match="belongs to another conversion"):
        convert([source], "a.npz", units=UnitOptions("eV"), write=WriteOptions(resume=True))
    # a row that was half written when the program died
    with open("a.npz.part/F.bin", "ab") as file:
        file.write(b"half a row")
    assert main(["dataset", "convert", source, "-o", "a.npz", "--resume"]) == 0
    convert([source], "b.npz")
    same(load_dataset("a.npz"), load_dataset("b.npz"), but=("name",))
    assert not leftovers(here)
    with pytest.raises(FileFormatError, match="nothing to resume"):
        convert([source], "c.npz", write=WriteOptions(resume=True))


def test_parts_that_are_damaged(water, here):
    resume = WriteOptions(resume=True)
    os.mkdir("a.npz.part")  # killed before any frame was safe
    Path("a.npz.part/R.bin").write_bytes(b"half")
    convert(["water.npz"], "a.npz", write=resume)
    same(load_dataset("a.npz"), load_dataset("water.npz"))
    reader = Reader(["water.npz"])
    Sink("b.npz", reader, WriteOptions(), {}).keep()
    reader.close()
    for state in ("[]", "{", '{"n": 2}', '{"n": 10, "keys": {"R": [3, 3]}, "job": {}}'):
        Path("b.npz.part/state.json").write_text(state)
        Path("b.npz.part/R.bin").write_bytes(b"short")
        with pytest.raises(FileFormatError, match="and start anew"):
            convert(["water.npz"], "b.npz", write=resume)


def test_a_full_disk_leaves_nothing(water, here, monkeypatch):
    from fastgdml.formats import npz

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(npz.json, "dumps", full)
    with pytest.raises(FileFormatError, match="No space left on device"):
        convert(["water.npz"], "a.npz")
    assert sorted(os.listdir()) == ["water.npz"]


# ---- memory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "n_frames"), [("npz", (5_000, 100_000)), ("xyz", (3_000, 30_000))])
def test_memory_does_not_grow_with_the_number_of_frames(here, target, n_frames):
    """Ten and more times the frames, the same peak of Python's and NumPy's memory."""
    peaks = []
    for n in n_frames:
        R = np.random.default_rng(0).uniform(0, 9, (n, 2, 3))
        R[:, 1] += 20
        np.savez("a.npz", z=[1, 1], R=R, F=R, E=R[:, 0, 0])
        del R
        tracemalloc.start()
        convert(["a.npz"], f"b{n}.{target}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


# ---- command line -------------------------------------------------------------------------------------------------


def test_commands(water, here, capsys):
    assert main(["dataset", "convert", "water.npz", "-o", "a.xyz", "--to", "eV", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["files"] == [{"path": "a.xyz", "n_frames": 60, "formula": "H2O", "fingerprint": None}]
    assert (result["e_unit"], result["r_unit"]) == ("eV", "Ang")
    assert main(["dataset", "merge", "water.npz", "a.xyz", "-o", "m.npz", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["dataset", "split", "m.npz", "--into", "train=100", "test=rest", "--prefix", "w"]) == 0
    assert len(load_dataset("w-train.npz")["R"]) == 100
    assert main(["dataset", "thin", "m.npz", "-o", "t.npz", "--every", "2"]) == 0
    assert main(["dataset", "shuffle", "m.npz", "-o", "s.npz", "--seed", "7"]) == 0
    capsys.readouterr()
    assert main(["dataset", "dedup", "m.npz", "-o", "d.npz", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["removed"] == 60
    assert main(["dataset", "info", "m.npz", "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["kinds"][0]["frames"] == 120
    assert info["kinds"][0]["energies"]["min"] == pytest.approx(water["E"].min())
    assert main(["dataset", "info", "m.npz"]) == 0
    assert "H2O, 3 atoms, 120 frames" in capsys.readouterr().out
    assert main(["dataset", "info", "ethanol"]) == 0  # the shipped example


def test_what_is_left_out_is_said(here, capsys):
    R = random_molecules(2, 2)
    np.savez("x.npz", z=[1, 8], R=R, gradients=R, charges=R[:, :, 0])
    assert main(["dataset", "convert", "x.npz", "-o", "a.npz"]) == 0
    out, err = capsys.readouterr()
    assert "left out: charges" in out
    assert "no energies, forces from gradients 'gradients', with the opposite sign" in out
    assert "The units are not all known" in err
    np.testing.assert_array_equal(load_dataset("a.npz")["F"], -R)


def test_errors_are_one_message(water, here, capsys):
    for arguments in (
        ["convert", "none.xyz", "-o", "a.npz"],
        ["convert", "water.npz", "-o", "a.npz", "--to", "parsec"],
        ["convert", "water.npz", "-o", "water.npz"],
        ["thin", "water.npz", "-o", "a.npz", "--n", "100"],
        ["check", "nothing.npz"],
    ):
        assert main(["dataset", *arguments]) == 1
        out, err = capsys.readouterr()
        assert err.count("[FAIL]") == 1
        assert "Traceback" not in out + err
    assert os.listdir() == ["water.npz"]
    with pytest.raises(SystemExit) as stop:
        main(["dataset", "split", "water.npz", "--into", "a=0"])
    assert stop.value.code == 2


def test_check_finds_duplicates(water, here, capsys):
    assert main(["dataset", "check", "water.npz", "--json"]) == 0
    json.loads(capsys.readouterr().out)
    convert(["water.npz", "water.npz"], "twice.npz")
    assert main(["dataset", "check", "twice.npz"]) == 0
    assert "duplicate geometries" in capsys.readouterr().err


def test_xyz_through_pipes(water, here):
    code = "import sys; from fastgdml.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "dataset", "convert"]
    convert(["water.npz"], "a.xyz")
    with open("a.xyz", "rb") as file:
        done = subprocess.run([*command, "-", "-o", "-"], stdin=file, capture_output=True, check=True)
    assert done.stdout == Path("a.xyz").read_bytes()
    assert b"Wrote standard output" in done.stderr
    n = len(load_dataset("water.npz")["R"])
    for arguments in (["dataset", "dedup", "-"], ["select-points", "-", str(n), "--unlabelled", "-p", "1"]):
        with open("a.xyz", "rb") as file:  # all frames, also the first
            command = [sys.executable, "-c", code, *arguments, "-o", "kept.npz", "--overwrite"]
            subprocess.run(command, stdin=file, capture_output=True, check=True)
        assert len(load_dataset("kept.npz")["R"]) == n
