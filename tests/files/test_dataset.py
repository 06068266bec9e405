import numpy as np
import pytest

from fastgdml.catalog import embedded_datasets
from fastgdml.dataset import (
    check_same_system,
    create_dataset,
    dataset_md5,
    load_dataset,
    save_dataset,
)
from fastgdml.errors import DataError, FileFormatError
from fastgdml.npz import save_npz


def arrays(n_geo=6, n_atoms=4):
    rng = np.random.default_rng(0)
    return {
        "z": np.array([6, 1, 1, 8][:n_atoms]),
        "R": rng.normal(size=(n_geo, n_atoms, 3)),
        "F": rng.normal(size=(n_geo, n_atoms, 3)),
        "E": rng.normal(size=n_geo),
    }


def test_embedded_example():
    assert "ethanol" in embedded_datasets()
    assert embedded_datasets()["ethanol"].stat().st_size <= 2**20
    dataset = load_dataset("ethanol")
    assert dataset["R"].shape == (2000, 9, 3)
    assert "make_example.py" in str(dataset["provenance"])
    # energies and forces belong together: their correlation along the trajectory is that of a molecule at 500 K
    assert np.abs(dataset["F"].sum(axis=1)).max() < 1e-2


def test_fingerprint_equals_sgdml(shared, reference):
    names = {"ethanol": "md17_ethanol_2000", "aspirin": "xtb_aspirin", "cu111": "emt_cu111"}
    dataset = load_dataset(shared(f"data/{names[reference['case'].split('_')[0]]}.npz"))
    dataset["z"] = dataset["z"].astype(np.int64)
    assert dataset_md5(dataset) == reference["dataset_md5"].item()


def test_round_trip_and_fingerprint(tmp_path, monkeypatch):
    dataset = create_dataset("a b", "pbe/def2", **arrays(), r_unit="Ang", e_unit="eV", lattice=np.eye(3) * 30)
    save_dataset(tmp_path / "a.npz", dataset)
    loaded = load_dataset(tmp_path / "a.npz")
    assert str(loaded["name"]) == "a b"
    assert loaded["md5"] == dataset["md5"]
    np.testing.assert_array_equal(loaded["R"], dataset["R"])
    by_fingerprint = load_dataset(f"{tmp_path}/{loaded['md5'].item().decode()}")
    assert by_fingerprint["md5"] == loaded["md5"]
    monkeypatch.chdir(tmp_path)
    assert load_dataset(loaded["md5"].item().decode())["md5"] == loaded["md5"]


def test_bare_arrays_are_a_dataset(tmp_path):
    content = arrays()
    save_npz(tmp_path / "water.npz", {**content, "E": content["E"][:, None]})
    dataset = load_dataset(tmp_path / "water.npz")
    assert str(dataset["name"]) == "water"
    assert dataset["E"].shape == (6,)
    assert dataset_md5(dataset) == dataset_md5(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"R": np.zeros((6, 12))}, "R must have shape"),
        ({"R": np.empty((0, 4, 3)), "F": np.empty((0, 4, 3))}, "at least one geometry"),
        ({"F": np.zeros((5, 4, 3))}, "F has shape"),
        ({"z": np.array([1, 1, 1])}, "z has shape"),
        ({"z": np.array([6, 1, 1, 0])}, "atomic numbers"),
        ({"z": np.array([6.5, 1, 1, 8])}, "atomic numbers"),
        ({"E": np.zeros(5)}, "E has shape"),
        ({"E": np.array(list("abcdef"))}, "floating-point"),
        ({"lattice": np.zeros((3, 3))}, "linearly dependent"),
        ({"lattice": np.eye(2)}, "3 x 3"),
    ],
)
def test_bad_arrays_are_explained(change, message):
    with pytest.raises(DataError, match=message):
        create_dataset("x", "y", **{**arrays(), **change})


@pytest.mark.parametrize(
    ("key", "where"), [("R", "geometry 3, atom 2"), ("F", "geometry 3, atom 2"), ("E", "geometry 3")]
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_located(key, where, value):
    content = arrays()
    content[key][(3, 2, 1) if key != "E" else 3] = value
    with pytest.raises(DataError, match=rf"{key} has 1 values that are not finite .*{where}"):
        create_dataset("x", "y", **content)


def test_coincident_atoms_are_located():
    content = arrays(n_geo=700)
    content["R"][600, 1] = content["R"][600, 3]
    with pytest.raises(DataError, match=r"geometry 600 .*\(atoms 1 and 3\)"):
        create_dataset("x", "y", **content)


def test_bad_permutations_are_refused(tmp_path):
    for perms in ([[0, 1, 2]], [[0, 1, 2, 2]]):
        save_npz(tmp_path / "a.npz", {**arrays(), "perms": np.array(perms)})
        with pytest.raises(DataError, match="perm"):
            load_dataset(tmp_path / "a.npz")


def test_other_files_are_no_datasets(tmp_path, ethanol_task):
    save_npz(tmp_path / "task.npz", ethanol_task)
    with pytest.raises(FileFormatError, match="is a task; a dataset is needed"):
        load_dataset(tmp_path / "task.npz")
    save_npz(tmp_path / "other.npz", {"x": 1})
    with pytest.raises(FileFormatError, match="z, R, F missing"):
        load_dataset(tmp_path / "other.npz")


def test_missing_datasets_name_the_examples(tmp_path):
    with pytest.raises(FileFormatError, match=r"no such dataset file.*ethanol"):
        load_dataset("no_such_molecule")
    with pytest.raises(FileFormatError, match="No dataset with fingerprint"):
        load_dataset(f"{tmp_path}/{'0' * 32}")


def test_systems_are_compared():
    one = create_dataset("x", "y", **arrays())
    other = {**one, "z": np.array([1, 6, 1, 8])}
    with pytest.raises(DataError, match=r"order differ: the model has z = \[6 1 1 8\]"):
        check_same_system(one, other, "model", "dataset")
    with pytest.raises(DataError, match="model has lattice vectors, the dataset has none"):
        check_same_system({**one, "lattice": np.eye(3)}, one, "model", "dataset")
