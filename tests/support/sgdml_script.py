"""Calls what scripts use of sgdml.utils and collects the results: arrays in the file named by its argument, the rest on
standard output. test_compat.py runs it with sgdml and with fastgdml.compat, in a folder with water.xyz and ethanol.npz.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from sgdml import DONE, MAX_PRINT_WIDTH, NOT_DONE, __version__
from sgdml.utils import io, perm, ui
from sgdml.utils.desc import Desc, _from_r, _pbc_diff, _pdist, _squareform

rng = np.random.default_rng(5)
out = {}
R, z = io.read_xyz("water.xyz")
out["R"], out["z"] = R.tolist(), z.tolist()
out["symbols"] = io.z_to_z_str([1, 8, 29, 92])
out["numbers"] = io.z_str_to_z(["C", "Cl", "Uuh"]).tolist()
out["tables"] = [io._z_str_to_z_dict["Fe"], io._z_to_z_str_dict[26]]
r, f, lattice = rng.normal(0, 30, (5, 3)), rng.normal(0, 1e-3, (5, 3)), rng.normal(0, 5, (3, 3))
r[0], r[1, 0], r[2] = 0.0, 1e7, [-0.5, -12.0, 3.0]
number = [1, 6, 7, 8, 17]
out["xyz"] = [io.generate_xyz_str(r, number), io.generate_xyz_str(r, number, e=-97208.4123456789, f=f, lattice=lattice)]
io.write_geometry("out.xyz", r[None], number, "a comment")
out["written"] = Path("out.xyz").read_text()
lengths, angles = io.lattice_vec_to_par(lattice)
out["lattice"] = [float(x) for x in [*lengths, *angles, *io.lattice_vec_to_par(np.diag([2.0, 3.0, 0.0]))[1]]]

dataset = {
    "R": rng.normal(size=(4, 5, 3)),
    "F": rng.normal(size=(4, 5, 3)),
    "z": np.array(number),
    "name": np.array("my mol"),
    "theory": np.array("PBE+TS/x..y"),
}
out["md5"] = [io.dataset_md5(dataset).decode(), io.dataset_md5({**dataset, "E": rng.normal(size=4)}).decode()]
out["dirs"] = [io.train_dir_name(dataset, 30, s, e, c) for s in (0, 1) for e in (0, 1) for c in (0, 1)]
task = {
    "idxs_train": np.arange(7),
    "perms": np.zeros((3, 5), int),
    "sig": np.array(20),
    "dataset_name": np.array("mol"),
    "dataset_theory": np.array("PBE+TS"),
}
out["files"] = [io.task_file_name(task), io.model_file_name(task), io.model_file_name(task, is_extended=True)]
np.savez("d.npz", type="d", md5=io.dataset_md5(dataset), **dataset)
np.savez("t.npz", type="t", md5_train=out["md5"][0].encode(), md5_valid=b"x", idxs_valid=np.arange(2), **task)
path, data = io.is_file_type("d.npz", "dataset")
out["loaded"] = [path, sorted(data.files), data["R"].tolist(), data["name"].astype(str).item()]
data.close()
out["filtered"] = [
    sorted(io.filter_file_type(".", "dataset")),
    io.filter_file_type(".", "task"),
    io.filter_file_type(".", "model"),
]
out["valid"] = io.is_valid_file_type("t.npz")[0]
out["dir"] = [io.is_dir_with_file_type(".", "task"), io.is_dir_with_file_type("t.npz", "task", or_file=True)]
one, other = {"md5": np.array(out["md5"][0].encode())}, {"md5": np.array(b"x")}
out["resumeable"] = [
    io.is_task_dir_resumeable(".", a, b, n, 2, s, g)
    for a, b, n, s, g in (
        (one, other, 7, [20], False),
        (other, other, 7, [20], False),
        (one, other, 8, [20], False),
        (one, other, 7, [10], False),
        (one, other, 7, [10, 20], True),
    )
]


def error(function, *arguments):
    try:
        function(*arguments)
    except (argparse.ArgumentTypeError, ValueError) as error:
        return type(error).__name__


out["errors"] = [
    error(io.is_file_type, "d.npz", "model"),
    error(io.is_file_type, "no.npz", "task"),
    error(io.is_strict_pos_int, "0"),
    error(io.is_strict_pos_int, "x"),
    error(io.parse_list_or_range, "5:1"),
    error(io.parse_list_or_range, "a:b"),
    error(io.is_dir_with_file_type, "no", "task"),
    error(io.is_valid_file_type, "out.npz"),
]
out["parsed"] = [
    io.is_strict_pos_int("3"),
    io.parse_list_or_range("7"),
    io.parse_list_or_range("1:4"),
    io.parse_list_or_range("10:10:40"),
]

out["ui"] = [
    ui.gen_mat_str(r)[0],
    [int(w) for w in ui.gen_mat_str(r)[1]],
    ui.gen_range_str(-1.5, 2.25),
    ui.indent_str("a\nb", 3),
    ui.merge_col_str("a\nb", "c\nd"),
    ui.color_str("plain", fore_color=ui.RED, bold=True),
    ui.str_plen("abc"),
    ui.gen_memory_str(100),
    ui.gen_memory_str(3 * 2**20),
    ui.gen_memory_str(5.5 * 2**30),
    ui.wrap_str("word " * 40),
    ui.unicode_str(np.array(b"bytes")),
    MAX_PRINT_WIDTH,
    DONE,
    NOT_DONE,
    __version__,
]

n = 5
desc = Desc(n, max_processes=1)
R = rng.normal(size=(4, 3 * n))
x, g = desc.from_R(R)
lat_and_inv = (lattice, np.linalg.inv(lattice))
arrays = {
    "x": x,
    "g": g,
    "x1": desc.from_R(R[0])[0],
    "g1": desc.from_R(R[0])[1],
    "mask": desc.d_desc_mask,
    "M": desc.M,
    "A": desc.A,
    "range": desc.dim_range,
    "tril": np.array(desc.tril_indices),
    "sizes": np.array([desc.n_atoms, desc.dim, desc.dim_i]),
    "px": desc.from_R(3 * R, lat_and_inv)[0],
    "pg": desc.from_R(3 * R, lat_and_inv)[1],
    "dot": desc.d_desc_dot_vec(g, rng.normal(size=(4, 3 * n))),
    "dot1": desc.d_desc_dot_vec(g[0], rng.normal(size=3 * n)),
    "tdot": desc.vec_dot_d_desc(g, rng.normal(size=(4, desc.dim))),
    "tdot1": desc.vec_dot_d_desc(g[0], rng.normal(size=desc.dim)),
    "tdot41": desc.vec_dot_d_desc(g[0], rng.normal(size=(4, desc.dim))),
    "full": desc.d_desc_from_comp(g),
    "comp": desc.d_desc_to_comp(desc.d_desc_from_comp(g)),
    "perm": Desc.perm(np.array([1, 0, 4, 2, 3])),
    "pdist": _pdist(R[0]),
    "square": _squareform(x[0]),
    "pairs": _squareform(_squareform(x[0])),
    "from_r": _from_r(R[1])[0],
    "pbc": _pbc_diff(rng.normal(0, 20, (6, 3)), lat_and_inv),
}
into = np.zeros((1, desc.dim, 3 * n))
desc.d_desc_from_comp(g[0], out=into)
arrays["into"] = into

cycle = np.array([np.arange(6), [1, 2, 0, 3, 4, 5], [0, 1, 2, 4, 3, 5]])
group = perm.complete_sym_group(cycle)
arrays |= {
    "group": group,
    "salvaged": perm.salvage_subgroup(np.array([[1, 0, 2, 3, 4, 5], [1, 2, 0, 3, 4, 5], [0, 1, 2, 4, 3, 5]])),
    "inverse": perm.inv_perm(np.array([2, 0, 1, 3])),
}
out["no group"] = perm.complete_sym_group(cycle, n_perms_max=6) is None
out["cycles"] = [[int(i) for i in c] for c in perm.to_cycles([1, 2, 0, 4, 3, 5])]
with np.load("ethanol.npz") as ethanol:
    arrays["perms"] = perm.find_perms(ethanol["R"][:60], ethanol["z"], max_processes=1)

np.savez(sys.argv[1], **arrays)
print("OUT" + json.dumps(out))
