"""Side-by-side timing of fastgdml and sgdml 1.0.3 on the same work, in one run.

    python -m venv peer && peer/bin/pip install torch sgdml
    python benchmarks/compare_sgdml.py --peer-python peer/bin/python --data DATA_DIR [--only assembly predict ...]

Every measurement is a process of its own; sgdml is run in both of its modes, NumPy (after its own `prepare_parallel`)
and PyTorch on the CPU. DATA_DIR holds the files named in CASES and SIZES and md17_ethanol_2000.npz (keys z, R, E, F,
perhaps lattice); without it the embedded ethanol example takes their place. Times are the best of the repetitions,
memory is the peak resident set of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import best_of, methyl_group, peak_gb

MODES = ("sgdml-numpy", "sgdml-torch", "fastgdml")


# ---- workers: one measurement each, run in the interpreter of the package under test -------------------------------


def load_case(path):
    with np.load(path, allow_pickle=False) as case:
        return dict(case)


def sgdml_classes(mode):
    if not hasattr(np, "in1d"):
        np.in1d = np.isin  # noqa: NPY201 (sgdml 1.0.3 on NumPy >= 2.4)
    import torch
    from sgdml.predict import GDMLPredict
    from sgdml.train import GDMLTrain

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    use_torch = mode == "sgdml-torch"
    return (
        lambda: GDMLTrain(use_torch=use_torch),
        lambda model: GDMLPredict(model, use_torch=use_torch),
    )


def fastgdml_classes():
    from fastgdml.predict import GDMLPredict
    from fastgdml.train import GDMLTrain

    return GDMLTrain, GDMLPredict


def classes(mode):
    return fastgdml_classes() if mode == "fastgdml" else sgdml_classes(mode)


def measure_assembly(mode, case, repetitions):
    """Assemble the full kernel matrix, through the method that both packages have."""
    train, _ = classes(mode)
    desc = None
    if mode != "fastgdml":
        from sgdml.utils.desc import Desc

        desc = Desc(len(case["z"]))
    gdml_train = train()
    arguments = (case["R_desc"], case["R_d_desc"], case["tril_perms_lin"], int(case["sig"]), desc)
    return {"seconds": best_of(lambda: gdml_train._assemble_kernel_mat(*arguments), repetitions)}


def measure_assembly_for_training(mode, case, repetitions):
    """Assemble what the closed form needs: fastgdml's packed, reduced matrix against sgdml's full one."""
    if mode != "fastgdml":
        return measure_assembly(mode, case, repetitions)
    from fastgdml.group import GroupTables
    from fastgdml.kernel import assemble_packed
    from fastgdml.solvers.rigid import drop_rigid_motions
    from fastgdml.training_set import TrainingSet

    def work():
        rows = drop_rigid_motions(case["R_train"], bool(case["periodic"])).rows
        tables = GroupTables.from_perms(case["perms"])
        assemble_packed(TrainingSet(case["R_desc"], case["R_d_desc"], tables, float(case["sig"])), rows)

    return {"seconds": best_of(work, repetitions)}


def measure_predict(mode, case, repetitions, n_bulk):
    _, predict = classes(mode)
    model = {key[6:]: value for key, value in case.items() if key.startswith("model_")}
    predictor = predict(model)
    if mode == "sgdml-numpy":
        predictor.prepare_parallel(n_bulk=n_bulk)
    R = case["R_test"][:n_bulk].reshape(n_bulk, -1)
    predictor.predict(R)
    F = predictor.predict(R)[1]
    calls = max(1, 200 // n_bulk)

    def work():
        for _ in range(calls):
            predictor.predict(R)

    seconds = best_of(work, repetitions) / calls
    return {"seconds": seconds, "rate": n_bulk / seconds, "checksum": float(np.abs(F).sum())}


def measure_train(mode, case, repetitions):
    train, _ = classes(mode)
    task = {key[5:]: value for key, value in case.items() if key.startswith("task_")}
    for key in ("use_E", "use_E_cstr", "use_sym"):
        task[key] = bool(task[key])
    return {"seconds": best_of(lambda: train().train(task), repetitions)}


def measure_permutations(mode, case, repetitions):
    if mode == "fastgdml":
        from fastgdml.permutations import find_perms
    else:
        sgdml_classes(mode)
        from sgdml.utils.perm import find_perms
    result = {}

    def work():
        result["n_perms"] = len(find_perms(case["R_train"], case["z"]))

    return {"seconds": best_of(work, repetitions), **result}


def measure_import(mode, case, repetitions):
    modules = "fastgdml.train, fastgdml.predict" if mode == "fastgdml" else "sgdml.train, sgdml.predict"
    command = [sys.executable, "-c", f"import {modules}"]
    folder = tempfile.gettempdir()  # not the source folder, which would be imported instead of the installed package
    return {"seconds": best_of(lambda: subprocess.run(command, check=True, cwd=folder), repetitions)}


def measure_all(mode, case, repetitions, dataset):
    if mode == "fastgdml":
        code = "import sys; from fastgdml.__main__ import run; sys.exit(run())"
        extra = []
    else:
        code = "import numpy as np; np.in1d = np.isin; from sgdml.cli import main; main()"
        extra = [] if mode == "sgdml-torch" else ["--cpu"]
    times = []
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, "-c", code, "all", dataset, "200", "500", "500", "-s", "10:10:50", *extra],
                cwd=folder,
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            times.append(time.perf_counter() - start)
    return {"seconds": min(times)}


def worker(request):
    measure = globals()[f"measure_{request['work']}"]
    case = load_case(request["case"]) if request["case"] else None
    result = measure(request["mode"], case, request["repetitions"], **request.get("options", {}))
    result["peak_mb"] = 1024 * peak_gb()
    print("RESULT " + json.dumps(result))


# ---- the comparison ---------------------------------------------------------------------------------------------


def make_dataset(path, n_atoms=None):
    """Return a dataset in sgdml's format from a file with z, R, E, F and perhaps a lattice, or its first atoms."""
    from fastgdml.dataset import create_dataset

    with np.load(path) as data:
        return create_dataset(
            path.stem,
            "reference",
            data["z"][:n_atoms].astype(np.int64),
            data["R"][:, :n_atoms],
            data["F"][:, :n_atoms],
            data["E"].ravel(),
            lattice=data.get("lattice"),
            r_unit="Ang",
            e_unit="kcal/mol",
        )


def make_case(path, dataset, n_train, sig, perms=None, n_test=2000):
    """One task, its descriptors and its model, saved so that every mode works on the same arrays."""
    from fastgdml.cell import Cell
    from fastgdml.descriptor import from_R, tril_perms_lin
    from fastgdml.train import GDMLTrain

    train = GDMLTrain()
    if perms is not None:  # a group for timing only, whose atoms must be alike
        dataset = {**dataset, "z": np.ones_like(dataset["z"])}
    task = train.create_task(dataset, n_train, dataset, 100, sig, perms=perms, seed=0)
    model = train.train(task)
    R_desc, R_d_desc = from_R(task["R_train"], Cell.of(task))
    rest = np.setdiff1d(np.arange(len(dataset["R"])), task["idxs_train"])[:n_test]
    np.savez(
        path,
        z=task["z"],
        sig=sig,
        R_train=task["R_train"],
        R_desc=R_desc,
        R_d_desc=R_d_desc,
        perms=task["perms"],
        periodic="lattice" in task,
        tril_perms_lin=tril_perms_lin(task["perms"]),
        R_test=dataset["R"][rest],
        **{f"task_{key}": value for key, value in task.items()},
        **{f"model_{key}": value for key, value in model.items()},
    )
    return len(task["perms"])


def run_worker(python, mode, work, case, repetitions, timeout, **options):
    request = {"mode": mode, "work": work, "case": case, "repetitions": repetitions, "options": options}
    command = [python, __file__, "--worker", json.dumps(request)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"over {timeout} s"}
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line[7:])
    return {"error": (done.stderr.strip().splitlines() or ["no result"])[-1][:80]}


# Molecule, file, atoms taken of it, training points, size of the group (None: those that are found).
CASES = [
    ("ethanol", "md17_ethanol", None, 200, None),
    ("ethanol", "md17_ethanol", None, 500, None),
    ("aspirin", "md17_aspirin", None, 200, None),
]
SIZES = [
    *(("ethanol", "md17_ethanol", None, 200, n_perms) for n_perms in (1, 2, 12)),
    ("aspirin", "md17_aspirin", None, 100, 6),
    ("24 atoms of C14H30", "qm22_alkane_C14", 24, 100, 12),
    ("C14H30", "qm22_alkane_C14", None, 50, 2),
    ("CH3OH on Cu(100)", "methanol_Cu100_train", None, 50, 1),
]
CASE_WORKS = ("assembly", "assembly_for_training", "predict", "predict_one", "train", "permutations")
SIZE_WORKS = ("assembly", "assembly_for_training", "predict", "predict_one")


def planned_rows(args, folder):
    """Yield (work, label, case file, number of atoms, options) for every row of the table."""
    from fastgdml.dataset import load_dataset

    data = Path(args.data) if args.data else None
    n_bulk = 100 if args.smoke else 1000
    texts = {
        "assembly": "assemble K",
        "assembly_for_training": "assemble for training",
        "predict": f"predict {n_bulk} at once",
        "predict_one": "predict one at a time",
        "train": "train",
        "permutations": "find permutations",
    }
    cases = [*((case, CASE_WORKS) for case in CASES), *((case, SIZE_WORKS) for case in SIZES)]
    if data is None:
        cases = [(("ethanol", None, None, 60 if args.smoke else 200, 2), CASE_WORKS)]
    for number, ((name, file, n_atoms, n_train, n_perms), works) in enumerate(cases):
        wanted = [work for work in works if not args.only or work in args.only]
        if not wanted or (args.sizes_only and works is CASE_WORKS):
            continue
        dataset = load_dataset("ethanol") if file is None else make_dataset(data / f"{file}.npz", n_atoms)
        n_atoms = len(dataset["z"])
        path = str(Path(folder) / f"case{number}.npz")
        perms = None if n_perms is None else methyl_group(n_atoms, n_perms)
        n_perms = make_case(path, dataset, n_train, 20, perms, 2 * n_bulk)
        label = f"{name}, N={n_atoms} M={n_train} P={n_perms}"
        for work in works:
            if work in wanted:
                options = {"predict": {"n_bulk": n_bulk}, "predict_one": {"n_bulk": 1}}.get(work, {})
                yield work, f"{texts[work]}: {label}", path, options
    if not args.only or "import" in args.only:
        yield "import", "import", None, {}
    if data is not None and (not args.only or "all" in args.only):
        small = make_dataset(data / "md17_ethanol_2000.npz")
        small["name"] = np.array("ethanol")
        path = str(Path(folder) / "ethanol.npz")
        np.savez(path, **{**small, "code_version": "1.0.3"})
        yield "all", "all 200 500 500 -s 10:10:50, ethanol", None, {"dataset": path}


def compare(args):
    table = []
    assembly = {}
    print(f"{'work':<58}{'sgdml NumPy':>14}{'sgdml PyTorch':>15}{'fastgdml':>14}{'ratio':>9}{'peak MB':>20}")
    with tempfile.TemporaryDirectory() as folder:
        for work, label, path, options in planned_rows(args, folder):
            results = {}
            for mode in MODES:
                python = sys.executable if mode == "fastgdml" else args.peer_python
                if python is None:
                    continue
                if mode != "fastgdml" and work == "assembly_for_training" and mode in assembly.get(path, {}):
                    results[mode] = assembly[path][mode]  # sgdml trains with the full matrix
                    continue
                repetitions = args.repetitions if mode == "fastgdml" else max(1, args.repetitions // 2)
                measure = "predict" if work == "predict_one" else work
                results[mode] = run_worker(python, mode, measure, path, repetitions, args.timeout, **options)
            if work == "assembly":
                assembly[path] = results
            print_row(label, results)
            table.append({"work": work, "label": label, **results})
            if args.json:
                Path(args.json).write_text(json.dumps(table, indent=1) + "\n")
    if args.plot:
        plot(table, args.plot)


def plot(table, path):
    """Draw how many times faster than the faster of sgdml's modes every piece of work is."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"  # text as text
    import matplotlib.pyplot as plt

    bars = [(row["label"], ratio(row)) for row in table if ratio(row) is not None and row["work"] != "assembly"]
    labels, ratios = zip(*reversed(bars), strict=True)
    figure, axes = plt.subplots(figsize=(9, 0.26 * len(bars) + 1), layout="constrained")
    drawn = axes.barh(range(len(bars)), ratios, color="#4477aa")
    axes.set_yticks(range(len(bars)), labels)
    axes.set_ylim(-0.6, len(bars) - 0.4)
    axes.bar_label(drawn, [f"{r:.0f}x" for r in ratios], padding=3, fontsize=8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlim(right=2 * max(ratios))
    axes.set_xlabel("times faster than the faster mode of sgdml 1.0.3, same machine, same run")
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def ratio(results):
    """Return the time of sgdml's faster mode over ours, or None."""
    peers = [results[mode]["seconds"] for mode in MODES[:2] if "seconds" in results.get(mode, {})]
    ours = results.get("fastgdml", {}).get("seconds")
    return min(peers) / ours if peers and ours else None


def print_row(label, results):
    def cell(mode):
        result = results.get(mode)
        if result is None:
            return "-"
        if "error" in result:
            return "failed"
        return f"{result['rate']:,.0f}/s" if "rate" in result else f"{result['seconds']:.3f} s"

    times = ratio(results)
    times = "-" if times is None else f"{times:.1f}x"
    memory = "/".join(f"{results[m]['peak_mb']:.0f}" if "peak_mb" in results.get(m, {}) else "-" for m in MODES)
    print(f"{label:<58}{cell(MODES[0]):>14}{cell(MODES[1]):>15}{cell(MODES[2]):>14}{times:>9}{memory:>20}", flush=True)
    for mode, result in results.items():
        if "error" in result:
            print(f"    {mode}: {result['error']}")


def main():
    if sys.argv[1:2] == ["--worker"]:
        worker(json.loads(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", help="interpreter that has sgdml and torch")
    parser.add_argument("--data", help="folder with md17_*.npz")
    parser.add_argument("--repetitions", type=int, default=4)
    parser.add_argument("--timeout", type=float, default=600)
    parser.add_argument("--only", nargs="+", help=f"some of: {' '.join(CASE_WORKS)} import all")
    parser.add_argument("--sizes-only", action="store_true", help="only the range of sizes and groups")
    parser.add_argument("--json", help="also write the measurements to this file")
    parser.add_argument("--plot", help="also draw the ratios into this file (SVG, PNG, PDF; needs matplotlib)")
    parser.add_argument("--smoke", action="store_true", help="small sizes, to see that it runs")
    args = parser.parse_args()
    if args.plot and not args.peer_python:
        parser.error("--plot draws ratios to sgdml: give --peer-python")
    compare(args)


if __name__ == "__main__":
    main()
