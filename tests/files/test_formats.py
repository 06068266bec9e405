"""Readers of frames: every format gives the numbers that were written, and faults are told with their place."""

import gzip
import io
import sys
from types import SimpleNamespace

import ase.db
import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from hypothesis import given, settings
from hypothesis import strategies as st
from support import format_files
from support.molecules import random_molecules

from fastgdml.dataset import load_dataset
from fastgdml.errors import DataError, FastGDMLError, FileFormatError, UsageError
from fastgdml.formats import Facts, Frames, ReadOptions, open_frames
from fastgdml.formats.xyz import xyz_frames

KCAL = 23.06054783061903  # kcal/mol in eV


def read(path, **options):
    """All frames of a source as one, and its facts."""
    with open_frames(str(path), ReadOptions(**options)) as source:
        chunks = list(source.chunks())
    assert all(len(c.z) == len(chunks[0].z) and (c.z == chunks[0].z).all() for c in chunks)
    assert [c.first for c in chunks] == list(np.cumsum([0, *map(len, chunks)])[:-1])
    join = {
        key: None if getattr(chunks[0], key) is None else np.concatenate([getattr(c, key) for c in chunks])
        for key in ("R", "E", "F", "lattice")
    }
    return Frames(0, chunks[0].z, **join), source.facts


@pytest.fixture(scope="session")
def molecule(shared):
    """Five frames of MD17 ethanol in eV and Angstrom."""
    d = load_dataset(shared("data/md17_ethanol_2000.npz"))
    return SimpleNamespace(z=d["z"], R=d["R"][:5], E=d["E"][:5] / KCAL, F=d["F"][:5] / KCAL, lattice=None)


@pytest.fixture(scope="session")
def crystal(shared):
    """Five frames of a copper cell, in eV and Angstrom."""
    d = load_dataset(shared("data/emt_cu111.npz"))
    return SimpleNamespace(z=d["z"], R=d["R"][:5], E=d["E"][:5], F=d["F"][:5], lattice=d["lattice"])


def close(frames, data, tolerance=0.0, rows=slice(None)):
    """Whether frames are those of the data, to the digits that a format has."""
    np.testing.assert_array_equal(frames.z, data.z)
    for key in ("R", "E", "F"):
        np.testing.assert_allclose(getattr(frames, key), getattr(data, key)[rows], rtol=0, atol=tolerance)
    if data.lattice is not None:
        shape = frames.lattice.shape
        np.testing.assert_allclose(frames.lattice, np.broadcast_to(data.lattice, shape), rtol=0, atol=tolerance)
    else:
        assert frames.lattice is None


def atoms_of(data, constraint=False):
    """The frames as ASE's Atoms with labels."""
    result = []
    for r, e, f in zip(data.R, data.E, data.F, strict=True):
        cell = None if data.lattice is None else data.lattice.T
        atoms = ase.Atoms(data.z, r, cell=cell, pbc=cell is not None)
        atoms.calc = SinglePointCalculator(atoms, energy=e, forces=f)
        if constraint:
            atoms.set_constraint(FixAtoms([0, 1]))
        result.append(atoms)
    return result


# ---- formats ----------------------------------------------------------------------------------------------------


def test_npz_of_real_datasets(shared):
    for name in ("md17_ethanol", "methanol_Cu100_train", "qm22_alkane_C14"):
        path = shared(f"data/{name}.npz")
        with np.load(path) as arrays:
            frames, facts = read(path)
            for key in ("R", "E", "F"):
                np.testing.assert_array_equal(getattr(frames, key), arrays[key])
            assert frames.z.dtype == arrays["z"].dtype
            assert (facts.e_unit, facts.r_unit, facts.theory) == tuple(
                str(arrays[key]) for key in ("e_unit", "r_unit", "theory")
            )
            if "lattice" in arrays:
                assert (frames.lattice == arrays["lattice"]).all()


def test_npz_of_rmd17(tmp_path, molecule):
    path = tmp_path / "rmd17_ethanol.npz"
    np.savez(
        path,
        nuclear_charges=molecule.z.astype(np.uint8),
        coords=molecule.R,
        energies=molecule.E,
        forces=molecule.F,
        old_indices=np.arange(5),
        old_energies=molecule.E + 1,
        old_forces=molecule.F * 2,
    )
    frames, facts = read(path)
    close(frames, molecule)
    assert (facts.energy, facts.forces) == ("energies", "forces")
    assert facts.left_out == {"old_indices", "old_energies", "old_forces"}


def test_npz_of_mbgdml(tmp_path, molecule):
    path = tmp_path / "mb.npz"
    np.savez(
        path,
        type="d",
        z=molecule.z,
        R=molecule.R,
        E=molecule.E[:, None],
        F=molecule.F,
        e_unit="kcal/mol",
        r_unit="Angstrom",
        entity_ids=np.zeros(9, int),
        comp_ids=np.array(["etoh"]),
        r_prov_specs=np.zeros((5, 3), int),
        mb=1,
    )
    frames, facts = read(path)
    close(frames, molecule)
    assert facts.left_out == {"entity_ids", "comp_ids", "r_prov_specs", "mb"}


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f8", ">f8", "<f4"])
def test_npz_of_other_layouts(tmp_path, molecule, order, dtype):
    arrays = {key: np.asarray(getattr(molecule, key).astype(dtype), order=order) for key in ("R", "E", "F")}
    np.savez(tmp_path / "x.npz", z=molecule.z.astype(float), **arrays)
    frames, _ = read(tmp_path / "x.npz")
    close(frames, molecule, 1e-5 * abs(molecule.E).max() if dtype == "<f4" else 0)
    assert frames.R.dtype == np.float64


def test_npz_with_atoms_of_every_frame(tmp_path):
    z = np.array([[8, 1, 1], [8, 1, 1], [6, 8, 0]])
    R = random_molecules(3, 3)
    np.savez(tmp_path / "x.npz", numbers=z, positions=R, energy=np.arange(3.0), gradient=R)
    with open_frames(str(tmp_path / "x.npz"), ReadOptions()) as source:
        chunks = list(source.chunks())
    assert [c.z.tolist() for c in chunks] == [[8, 1, 1], [6, 8]]
    np.testing.assert_array_equal(chunks[0].F, -R[:2])
    np.testing.assert_array_equal(chunks[1].R, R[2:, :2])
    assert source.facts.gradients


def test_cells_of_npz_are_rows_unless_they_are_lattices(tmp_path, crystal):
    labels = {"z": crystal.z, "R": crystal.R, "E": crystal.E, "F": crystal.F}
    np.savez(tmp_path / "a.npz", lattice=crystal.lattice, **labels)
    np.savez(tmp_path / "b.npz", cell=np.tile(crystal.lattice.T, (5, 1, 1)), **labels)
    np.savez(tmp_path / "c.npz", box=np.tile(crystal.lattice.T.ravel(), (5, 1)), **labels)
    for name in "abc":
        close(read(tmp_path / f"{name}.npz")[0], crystal)


@pytest.mark.parametrize("pair", ["molecule", "crystal"])
def test_extended_xyz_of_ase(tmp_path, pair, request):
    data = request.getfixturevalue(pair)
    ase.io.write(tmp_path / "x.xyz", atoms_of(data), format="extxyz")
    frames, facts = read(tmp_path / "x.xyz")
    close(frames, data, 6e-9)
    assert (facts.energy, facts.forces, facts.e_unit) == ("energy", "forces", None)


@pytest.mark.parametrize("pair", ["molecule", "crystal"])
def test_ase_reads_our_extended_xyz(tmp_path, pair, request):
    data = request.getfixturevalue(pair)
    lattice = None if data.lattice is None else np.tile(data.lattice, (5, 1, 1))
    facts = Facts("eV", "Ang", name='a "name" with\\blanks', theory="PBE+vdW-TS")
    (tmp_path / "x.xyz").write_text(xyz_frames(Frames(0, data.z, data.R, data.E, data.F, lattice), facts))
    for ours, theirs in zip(ase.io.read(tmp_path / "x.xyz", index=":"), atoms_of(data), strict=True):
        np.testing.assert_array_equal(ours.numbers, theirs.numbers)
        np.testing.assert_array_equal(ours.positions, theirs.positions)
        np.testing.assert_array_equal(ours.cell, theirs.cell)
        assert ours.get_potential_energy() == theirs.get_potential_energy()
        np.testing.assert_array_equal(ours.get_forces(), theirs.get_forces())
    assert read(tmp_path / "x.xyz")[1].name == 'a "name" with\\blanks'


def test_xyz_of_sgdml(tmp_path, molecule, crystal, peer):
    """Files that sgdml's own exporter writes."""
    code = (
        "import sys; from sgdml.utils import io\n"
        "d = np.load(sys.argv[1]); lat = d['lattice'] if 'lattice' in d else None\n"
        "open(sys.argv[2], 'w').write(''.join(io.generate_xyz_str(r, d['z'], e=e, f=f, lattice=lat) + '\\n'"
        " for r, e, f in zip(d['R'], d['E'], d['F'])))"
    )
    for data in (molecule, crystal):
        entries = {key: value for key, value in vars(data).items() if value is not None}
        np.savez(tmp_path / "d.npz", **entries)
        peer(code, tmp_path / "d.npz", tmp_path / "d.xyz")
        frames, facts = read(tmp_path / "d.xyz")
        close(frames, data, 1e-4)  # six digits
        assert facts.energy == "Energy"


def test_xyz_with_bare_energies(tmp_path, molecule):
    """sgdml's older files: the comment is the energy, forces are in columns 5 to 7."""
    lines = []
    for r, e, f in zip(molecule.R, molecule.E, molecule.F, strict=True):
        lines += ["9", repr(float(e))]
        lines += [f"{z} " + " ".join(map(repr, [*map(float, a), *map(float, b)])) for z, a, b in zip(molecule.z, r, f)]  # noqa: B905
    (tmp_path / "x.xyz").write_text("\n".join(lines))
    close(read(tmp_path / "x.xyz")[0], molecule)


def test_xyz_compressed_and_from_standard_input(tmp_path, molecule, monkeypatch):
    text = xyz_frames(Frames(0, molecule.z, molecule.R, molecule.E, molecule.F), Facts())
    with gzip.open(tmp_path / "x.xyz.gz", "wb") as file:
        file.write(text.encode())
    close(read(tmp_path / "x.xyz.gz")[0], molecule)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))
    close(read("-")[0], molecule)


def test_ase_trajectories_forces_without_masking(tmp_path, crystal):
    ase.io.write(tmp_path / "x.traj", atoms_of(crystal, constraint=True))
    masked = ase.io.read(tmp_path / "x.traj", index=0).get_forces()
    assert not masked[:2].any()
    frames, facts = read(tmp_path / "x.traj")
    close(frames, crystal)
    assert (facts.e_unit, facts.r_unit) == ("eV", "Ang")


def test_ase_databases(tmp_path, crystal):
    with ase.db.connect(tmp_path / "x.db") as db:
        for atoms in atoms_of(crystal, constraint=True):
            db.write(atoms, config="slab")
    frames, facts = read(tmp_path / "x.db")
    close(frames, crystal)
    assert facts.left_out == {"config"}


def test_databases_of_schnetpack(tmp_path, molecule):
    """Labels are in the data of rows, units in the metadata."""
    with ase.db.connect(tmp_path / "x.db") as db:
        units = {"energy": "Hartree", "forces": "Hartree/Bohr", "dipole": "Debye"}
        db.metadata = {"_property_unit_dict": units, "_distance_unit": "Ang", "atomrefs": {}}
        for r, e, f in zip(molecule.R, molecule.E, molecule.F, strict=True):
            data = {"energy": np.array([e]), "forces": f, "dipole": np.zeros((1, 3))}
            db.write(ase.Atoms(molecule.z, r), data=data)
    frames, facts = read(tmp_path / "x.db")
    close(frames, molecule)
    assert (facts.e_unit, facts.r_unit, facts.f_unit) == ("Hartree", "Ang", "Hartree/Bohr")
    assert facts.left_out == {"dipole"}


def test_vasp(tmp_path, crystal):
    format_files.write_outcar(tmp_path / "OUTCAR", *vars(crystal).values())
    close(read(tmp_path / "OUTCAR")[0], crystal, 1e-7)
    format_files.write_vasprun(tmp_path / "vasprun.xml", *vars(crystal).values(), frozen=(0, 1))
    frames, _ = read(tmp_path / "vasprun.xml")
    close(frames, crystal, 1e-8)
    assert frames.F[:, :2].any()


def test_free_and_extrapolated_energies_are_not_guessed_between(tmp_path, crystal):
    free = crystal.E - 0.1
    format_files.write_outcar(tmp_path / "OUTCAR", *vars(crystal).values(), free=free)
    with pytest.raises(UsageError, match="--energy free_energy or --energy energy"):
        read(tmp_path / "OUTCAR")
    np.testing.assert_allclose(read(tmp_path / "OUTCAR", energy="free_energy")[0].E, free, atol=1e-7)


def test_energies_that_differ_only_later(tmp_path, crystal):
    free = crystal.E.copy()
    free[3] -= 0.1
    format_files.write_outcar(tmp_path / "OUTCAR", *vars(crystal).values(), free=free)
    with pytest.raises(DataError, match=r"frame 3 .*they were equal before"):
        read(tmp_path / "OUTCAR")


@pytest.mark.parametrize("program", ["orca", "gaussian"])
def test_quantum_chemistry_programs(tmp_path, molecule, program):
    write = {"orca": format_files.write_orca, "gaussian": format_files.write_gaussian}[program]
    write(tmp_path / "run.out", molecule.z, molecule.R, molecule.E, molecule.F)
    frames, facts = read(tmp_path / "run.out")
    close(frames, molecule, 1e-6)
    assert (facts.e_unit, facts.r_unit) == ("eV", "Ang")


def test_fhi_aims(tmp_path, molecule):
    format_files.write_aims(tmp_path / "aims.out", molecule.z, molecule.R[3], molecule.E[3], molecule.F[3])
    frames, facts = read(tmp_path / "aims.out")
    close(frames, molecule, 1e-8, rows=slice(3, 4))
    assert (facts.e_unit, facts.r_unit) == ("eV", "Ang")


def test_cp2k(tmp_path, molecule):
    format_files.write_cp2k(tmp_path, molecule.z, molecule.R, molecule.E, molecule.F)
    frames, facts = read(tmp_path / "md-pos-1.xyz", forces_file=str(tmp_path / "md-frc-1.xyz"))
    assert (facts.e_unit, facts.r_unit, facts.f_unit) == ("Hartree", "Ang", "Hartree/Bohr")
    np.testing.assert_allclose(frames.E * format_files.HARTREE, molecule.E, atol=1e-8)
    np.testing.assert_allclose(frames.F * (format_files.HARTREE / format_files.BOHR), molecule.F, atol=1e-7)


def test_ipi_frames_are_matched_by_step(tmp_path, molecule):
    format_files.write_ipi(tmp_path, molecule.z, molecule.R, molecule.E, molecule.F, strides=(1, 2, 1))
    files = {"forces_file": str(tmp_path / "sim.for_0.xyz"), "energies_file": str(tmp_path / "sim.out")}
    with pytest.raises(UsageError, match="--cell if the system is periodic, or --no_cell"):
        read(tmp_path / "sim.pos_0.xyz", **files)
    frames, facts = read(tmp_path / "sim.pos_0.xyz", cell=False, **files)
    np.testing.assert_allclose(frames.R, molecule.R[::2], atol=1e-7)
    np.testing.assert_allclose(frames.E, molecule.E[::2], rtol=1e-10)
    np.testing.assert_allclose(frames.F * (format_files.HARTREE / format_files.BOHR), molecule.F[::2], atol=1e-6)
    assert (facts.e_unit, facts.r_unit, facts.f_unit) == ("eV", "Ang", "Hartree/Bohr")
    assert any("2 frames" in text for text in facts.left_out)
    lattice = read(tmp_path / "sim.pos_0.xyz", cell=True, **files)[0].lattice
    np.testing.assert_allclose(lattice, np.broadcast_to(200 * np.eye(3), (3, 3, 3)), atol=1e-12)
    files["energies_file"] = str(tmp_path / "table")
    np.savetxt(tmp_path / "table", np.column_stack([np.arange(5), molecule.E]))
    with pytest.raises(UsageError, match="Which column"):
        read(tmp_path / "sim.pos_0.xyz", cell=False, **files)
    with pytest.raises(DataError, match="belong together"):
        read(tmp_path / "sim.pos_0.xyz", cell=False, energy="1", **files)


def test_deepmd(tmp_path, molecule, crystal):
    for name, data in (("mol", molecule), ("cu", crystal)):
        format_files.write_deepmd(tmp_path / name, *vars(data).values(), per_set=2)
        frames, facts = read(tmp_path / name)
        close(frames, data)
        assert (facts.e_unit, facts.r_unit) == ("eV", "Ang")
    with pytest.raises(FileFormatError, match=r"mol.* Give a file"):
        read(tmp_path)


# ---- names ------------------------------------------------------------------------------------------------------


def write_named(path, molecule, comment, columns="forces"):
    """Extended XYZ with these words in the comments and this name of the columns after positions."""
    frames = Frames(0, molecule.z, molecule.R, None, molecule.F)
    lines = xyz_frames(frames, Facts()).splitlines()
    for i in range(1, len(lines), 11):
        lines[i] = lines[i].replace("forces", columns) + " " + comment
    path.write_text("\n".join(lines))


@pytest.mark.parametrize("name", ["energy", "Energy", "REF_energy", "dft_energy", "TotEnergy", "E", "energy_ref", "U0"])
def test_usual_names_of_energies(tmp_path, molecule, name):
    comment = f"{name}=-1.5 kinetic_energy=3 energy_std=0.1 e_unit=eV weight=2"
    write_named(tmp_path / "x.xyz", molecule, comment)
    frames, facts = read(tmp_path / "x.xyz")
    assert (frames.E == -1.5).all()
    assert facts.energy == name
    assert facts.left_out == {"kinetic_energy", "energy_std", "weight"}


@pytest.mark.parametrize("name", ["forces", "force", "REF_forces", "dft_forces", "F", "gradient", "energy_grad"])
def test_usual_names_of_forces(tmp_path, molecule, name):
    write_named(tmp_path / "x.xyz", molecule, "energy=1", name)
    frames, facts = read(tmp_path / "x.xyz")
    sign = -1 if "grad" in name else 1
    np.testing.assert_array_equal(frames.F, sign * molecule.F)
    assert facts.forces == name
    np.testing.assert_array_equal(read(tmp_path / "x.xyz", gradients=True)[0].F, -molecule.F)


def test_candidates_are_not_guessed_between(tmp_path, molecule):
    write_named(tmp_path / "x.xyz", molecule, "energy=1 REF_energy=2")
    with pytest.raises(UsageError, match=r"'energy' \(1\), 'REF_energy' \(2\)\. Say which .*--energy REF_energy"):
        read(tmp_path / "x.xyz")
    assert (read(tmp_path / "x.xyz", energy="REF_energy")[0].E == 2).all()
    assert read(tmp_path / "x.xyz", use_E=False)[0].E is None
    with pytest.raises(UsageError, match=r"no energy named 'foo'\. There are: energy, REF_energy"):
        read(tmp_path / "x.xyz", energy="foo")
    write_named(tmp_path / "y.xyz", molecule, "energy=1", "forces:R:3:mace_forces")
    text = (tmp_path / "y.xyz").read_text().splitlines()
    text = [f"{line} 1 2 3" if len(line.split()) == 7 and "=" not in line else line for line in text]
    (tmp_path / "y.xyz").write_text("\n".join(text))
    with pytest.raises(UsageError, match="several forces: 'forces', 'mace_forces'"):
        read(tmp_path / "y.xyz")
    assert (read(tmp_path / "y.xyz", forces="mace_forces")[0].F == [1, 2, 3]).all()


def test_columns_without_names_are_no_forces(tmp_path):
    """Seven columns may be velocities: only sgdml's own layout says that they are forces."""
    (tmp_path / "x.xyz").write_text("2\nstep 1\nH 0 0 0 1 2 3\nH 0 0 1 1 2 3\n")
    frames, facts = read(tmp_path / "x.xyz")
    assert frames.F is None
    assert facts.left_out == {"columns_5-7"}
    assert (read(tmp_path / "x.xyz", forces="columns_5-7")[0].F == [1, 2, 3]).all()


def test_labels_missing_in_some_frames(tmp_path):
    good = "2\nProperties=species:S:1:pos:R:3 {}\nH 0 0 0\nH 0 0 1\n"
    (tmp_path / "a.xyz").write_text(good.format("energy=1") + good.format(""))
    with pytest.raises(DataError, match=r"frame 1 .*no energy \('energy'\)"):
        read(tmp_path / "a.xyz")
    (tmp_path / "b.xyz").write_text(good.format("") + good.format("energy=1"))
    with pytest.raises(DataError, match=r"frame 1 .*it has an energy"):
        read(tmp_path / "b.xyz")
    (tmp_path / "c.xyz").write_text(good.format("energy=none"))
    assert read(tmp_path / "c.xyz")[0].E is None


# ---- cells ------------------------------------------------------------------------------------------------------


def test_periodic_directions(tmp_path):
    frame = '2\nLattice="4 0 0 1 5 0 0 0 {}" pbc="{}" Properties=species:S:1:pos:R:3\nH 0 0 0\nH 0 0 1\n'
    (tmp_path / "a.xyz").write_text(frame.format(6, "T T F"))
    np.testing.assert_array_equal(read(tmp_path / "a.xyz")[0].lattice, [[[4, 1, 0], [0, 5, 0], [0, 0, 6]]])
    (tmp_path / "b.xyz").write_text(frame.format(6, "F F F"))
    assert read(tmp_path / "b.xyz")[0].lattice is None
    (tmp_path / "c.xyz").write_text(frame.format(0, "T T F"))
    with pytest.raises(DataError, match=r"frame 0 .*periodic in 2 directions.*vacuum"):
        read(tmp_path / "c.xyz")
    assert read(tmp_path / "c.xyz", cell=False)[0].lattice is None


# ---- faults -----------------------------------------------------------------------------------------------------

FRAME = "2\nenergy=1 Properties=species:S:1:pos:R:3\nH 0 0 0\nH 0 0 1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("hello\n", "no XYZ file: it starts with 'hello'"),
        (FRAME + "junk\n", r"frame 1 .*line 5: 'junk'"),
        (FRAME + FRAME[:-10], r"frame 1 .*ends after 1 of 2 atoms, in line 7"),
        (FRAME + FRAME.replace("0 0 1", "0 0 x"), r"frame 1 .*line 8: 'x' in 'pos' is no number"),
        (FRAME + FRAME.replace("H 0 0 1", "Qq 0 0 1"), r"frame 1 .*line 8: 'Qq' is no element"),
        (FRAME + FRAME.replace("0 0 1", "0 0"), r"frame 1 .*line 8: 4 columns expected, 3 found"),
        (FRAME.replace("pos:R:3", "pos:R"), "Properties=.* is not name:kind:columns"),
        (FRAME.replace("pos", "poz"), "there are no positions"),
        (FRAME.replace("species", "spec"), "the elements are not told"),
        (FRAME.replace("energy=1", 'Lattice="1 2 3"'), "is not nine numbers"),
        (FRAME.replace("energy=1", "perms=1:2"), "'perms' in the comment is no list"),
    ],
)
def test_broken_xyz(tmp_path, text, message):
    (tmp_path / "x.xyz").write_text(text)
    with pytest.raises(FastGDMLError, match=message):
        read(tmp_path / "x.xyz")


def test_damaged_npz(tmp_path, molecule, shared):
    path = tmp_path / "x.npz"
    np.savez(path, z=molecule.z, R=molecule.R, F=molecule.F)
    whole = path.read_bytes()
    for n in (1, 40, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:n])
        with pytest.raises(FileFormatError, match=r"x\.npz"):
            read(path)
    with pytest.raises(FileFormatError, match="is a model"):
        read(shared("data/legacy_model_ethanol_sgdml2018.npz"))
    np.savez(path, z=molecule.z, R=molecule.R, F=np.array([None]))
    assert read(path)[0].F is None
    np.savez(path, z=molecule.z, R=molecule.R[0])
    with pytest.raises(DataError, match=r"\(n_geometries, n_atoms, 3\)"):
        read(path)
    np.savez(path, a=1)
    with pytest.raises(FileFormatError, match="holds a: no positions"):
        read(path)


def test_files_of_unknown_kind(tmp_path):
    (tmp_path / "x.dat").write_text("no format at all\n")
    with pytest.raises(FileFormatError, match="--format"):
        read(tmp_path / "x.dat")
    with pytest.raises(FileFormatError, match="no such file"):
        read(tmp_path / "none.xyz")
    (tmp_path / "x.traj").write_bytes(b"- of UlmASE-Trajectory junk")
    with pytest.raises(FileFormatError, match="ASE cannot read it as"):
        read(tmp_path / "x.traj")


def test_outputs_that_are_cut_off(tmp_path, crystal, molecule):
    format_files.write_vasprun(tmp_path / "vasprun.xml", *vars(crystal).values())
    text = (tmp_path / "vasprun.xml").read_text()
    (tmp_path / "vasprun.xml").write_text(text[: len(text) // 2])
    frames, _ = read(tmp_path / "vasprun.xml")  # complete frames of a run that is still going on
    assert 0 < len(frames) < 5
    format_files.write_deepmd(tmp_path / "dp", molecule.z, molecule.R, molecule.E, molecule.F)
    (tmp_path / "dp/set.000/force.npy").write_bytes((tmp_path / "dp/set.000/force.npy").read_bytes()[:-100])
    with pytest.raises(FileFormatError, match=r"force\.npy cannot be read"):
        read(tmp_path / "dp")


def test_without_ase(tmp_path, monkeypatch):
    (tmp_path / "x.traj").write_bytes(b"- of Ulm")
    monkeypatch.setitem(sys.modules, "ase.io.formats", None)
    with pytest.raises(UsageError, match=r"pip install 'fastgdml\[ase\]'"):
        read(tmp_path / "x.traj")


# ---- any frames -------------------------------------------------------------------------------------------------

numbers = st.floats(-1e6, 1e6, allow_subnormal=True)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_frames_survive_xyz(tmp_path_factory, data):
    n, n_atoms = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))

    def draw(*shape):
        size = int(np.prod(shape))
        return np.array(data.draw(st.lists(numbers, min_size=size, max_size=size))).reshape(shape)

    z = np.array(data.draw(st.lists(st.integers(1, 118), min_size=n_atoms, max_size=n_atoms)))
    E = draw(n) if data.draw(st.booleans()) else None
    F = draw(n, n_atoms, 3) if data.draw(st.booleans()) else None
    lattice = draw(n, 3, 3) if data.draw(st.booleans()) else None
    if lattice is not None:
        lattice = lattice + 1e7 * np.eye(3)
    printable = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=20)
    name = data.draw(printable)
    facts = Facts("kcal/mol", "Å", name=name, theory=data.draw(st.none() | printable))
    written = Frames(0, z, draw(n, n_atoms, 3), E, F, lattice)
    path = tmp_path_factory.mktemp("any") / "x.xyz"
    path.write_text(xyz_frames(written, facts), encoding="utf-8")
    frames, found = read(path)
    np.testing.assert_array_equal(frames.z, z)
    for key in ("R", "E", "F", "lattice"):
        if getattr(written, key) is None:
            assert getattr(frames, key) is None
        else:
            np.testing.assert_array_equal(getattr(frames, key), getattr(written, key))
    assert (found.e_unit, found.r_unit, found.name, found.theory) == ("kcal/mol", "Å", name, facts.theory)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"R": np.zeros((2, 2, 3), complex)}, "R must hold real numbers; found complex128"),
        ({"z": np.array(["H", "O"])}, "atomic numbers must be integers"),
        ({"z": np.array([1.5, 2])}, "atomic numbers must be integers"),
        ({"z": np.array([1, 2, 3])}, r"z has shape \(3,\)"),
        ({"perms": np.array([["a"]])}, "perms must hold integers"),
        ({"lattice": np.eye(2)}, "lattice has shape"),
        ({"lattice": np.eye(3), "cell": np.eye(3)}, "several lattices"),
        ({"R": np.zeros((0, 2, 3))}, "must have shape"),
    ],
)
def test_npz_of_wrong_entries(tmp_path, change, message):
    np.savez(tmp_path / "x.npz", **{"z": [1, 8], "R": random_molecules(2, 2), "F": np.ones((2, 2, 3)), **change})
    with pytest.raises(FastGDMLError, match=message):
        read(tmp_path / "x.npz")


def test_npz_with_entries_that_are_none(tmp_path):
    none = np.array(None, dtype=object)
    np.savez(tmp_path / "x.npz", z=[1, 8], R=random_molecules(2, 2), lattice=none, E=none, perms=none, e_unit=none)
    frames, facts = read(tmp_path / "x.npz")
    assert frames.lattice is None
    assert frames.E is None
    assert facts.perms is None
