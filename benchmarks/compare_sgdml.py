"""Side-by-side timing of fastgdml and sgdml 1.0.3 on the same work, in one run.

    python -m venv peer && peer/bin/pip install torch sgdml
    python benchmarks/compare_sgdml.py --peer-python peer/bin/python --data DATA_DIR [--only assembly predict ...]

Every measurement is a process of its own; sgdml is run in both of its modes, NumPy (after its own `prepare_parallel`)
and PyTorch on the CPU. DATA_DIR holds md17_ethanol.npz, md17_aspirin.npz and md17_ethanol_2000.npz (keys z, R, E, F);
without it the embedded ethanol example takes the place of what is missing. Times are the best of the repetitions,
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

MODES = ("sgdml-numpy", "sgdml-torch", "fastgdml")


# ---- workers: one measurement each, run in the interpreter of the package under test -------------------------------


def best_of(function, repetitions):
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


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

    def work():
        rows = drop_rigid_motions(case["R_train"]).rows
        assemble_packed(
            case["R_desc"], case["R_d_desc"], GroupTables.from_perms(case["perms"]), float(case["sig"]), rows
        )

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
        code = "import sys; from fastgdml.cli import main; sys.exit(main())"
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


def peak_mb():
    """Peak resident set of this process (ru_maxrss would start from that of the parent)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def worker(request):
    measure = globals()[f"measure_{request['work']}"]
    case = load_case(request["case"]) if request["case"] else None
    result = measure(request["mode"], case, request["repetitions"], **request.get("options", {}))
    result["peak_mb"] = peak_mb()
    print("RESULT " + json.dumps(result))


# ---- the comparison ---------------------------------------------------------------------------------------------


def make_dataset(path, name):
    """Return a dataset in sgdml's format from a file with z, R, E, F."""
    from fastgdml.dataset import create_dataset

    with np.load(path) as data:
        return create_dataset(
            name,
            "reference",
            data["z"].astype(np.int64),
            data["R"],
            data["F"],
            data["E"].ravel(),
            r_unit="Ang",
            e_unit="kcal/mol",
        )


def make_case(folder, name, dataset, n_train, sig, n_test=2000):
    """One task, its descriptors and its model, saved so that every mode works on the same arrays."""
    from fastgdml.descriptor import from_R, tril_perms_lin
    from fastgdml.train import GDMLTrain

    train = GDMLTrain()
    task = train.create_task(dataset, n_train, dataset, 100, sig, seed=0)
    model = train.train(task)
    R_desc, R_d_desc = from_R(task["R_train"])
    rest = np.setdiff1d(np.arange(len(dataset["R"])), task["idxs_train"])[:n_test]
    path = Path(folder) / f"{name}-{n_train}.npz"
    np.savez(
        path,
        z=task["z"],
        sig=sig,
        R_train=task["R_train"],
        R_desc=R_desc,
        R_d_desc=R_d_desc,
        perms=task["perms"],
        tril_perms_lin=tril_perms_lin(task["perms"]),
        R_test=dataset["R"][rest],
        **{f"task_{key}": value for key, value in task.items()},
        **{f"model_{key}": value for key, value in model.items()},
    )
    return str(path), len(task["perms"])


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


def compare(args):
    data = Path(args.data) if args.data else None

    def dataset(name):
        path = data / f"md17_{name}.npz" if data and (data / f"md17_{name}.npz").exists() else None
        if path is None and name == "aspirin":
            return None
        from fastgdml.dataset import load_dataset

        return make_dataset(path, name) if path else load_dataset("ethanol")

    with tempfile.TemporaryDirectory() as folder:
        sizes = [("ethanol", 60)] if args.smoke else [("ethanol", 200), ("ethanol", 500), ("aspirin", 200)]
        cases = {}
        for name, n_train in sizes:
            source = dataset(name)
            if source is not None:
                path, n_perms = make_case(folder, name, source, n_train, 20, 200 if args.smoke else 2000)
                cases[f"{name} M={n_train} P={n_perms}"] = path
        small = dataset("ethanol_2000")
        small_path = str(Path(folder) / "ethanol_2000.npz")
        small["name"] = np.array("ethanol")
        np.savez(small_path, **{**small, "code_version": "1.0.3"})

        rows = []
        last_assembly = {}
        n_bulk = 100 if args.smoke else 1000
        for label, path in cases.items():
            rows += [
                ("assembly", f"assemble K, {label}", path, {}),
                ("assembly_for_training", f"assemble for training, {label}", path, {}),
                ("predict", f"predict {n_bulk} at once, {label}", path, {"n_bulk": n_bulk}),
                ("predict", f"predict one at a time, {label}", path, {"n_bulk": 1}),
                ("train", f"train, {label}", path, {}),
                ("permutations", f"find permutations, {label}", path, {}),
            ]
        rows.append(("import", "import", None, {}))
        if not args.smoke:
            rows.append(("all", "all 200 500 500 -s 10:10:50, ethanol", None, {"dataset": small_path}))

        print(f"{'work':<48}{'sgdml NumPy':>16}{'sgdml PyTorch':>16}{'fastgdml':>16}{'ratio':>9}{'peak MB':>22}")
        for work, label, path, options in rows:
            if args.only and work not in args.only:
                continue
            results = {}
            for mode in MODES:
                python = sys.executable if mode == "fastgdml" else args.peer_python
                if python is None:
                    continue
                repetitions = args.repetitions if mode == "fastgdml" else max(1, args.repetitions // 2)
                if mode != "fastgdml" and work in ("assembly_for_training",):
                    results[mode] = last_assembly[mode]
                    continue
                results[mode] = run_worker(python, mode, work, path, repetitions, args.timeout, **options)
            if work == "assembly":
                last_assembly = results
            print_row(label, results)


def print_row(label, results):
    def cell(mode):
        result = results.get(mode)
        if result is None:
            return "-"
        if "error" in result:
            return "failed"
        return f"{result['rate']:,.0f}/s" if "rate" in result else f"{result['seconds']:.3f} s"

    peers = [r["seconds"] for mode, r in results.items() if mode != "fastgdml" and "seconds" in r]
    ours = results["fastgdml"].get("seconds")
    ratio = f"{min(peers) / ours:.1f}x" if peers and ours else "-"
    memory = "/".join(f"{results[m]['peak_mb']:.0f}" if "peak_mb" in results.get(m, {}) else "-" for m in MODES)
    print(f"{label:<48}{cell(MODES[0]):>16}{cell(MODES[1]):>16}{cell(MODES[2]):>16}{ratio:>9}{memory:>22}", flush=True)
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
    parser.add_argument("--only", nargs="+", help="assembly predict train permutations import all")
    parser.add_argument("--smoke", action="store_true", help="small sizes, to see that it runs")
    compare(parser.parse_args())


if __name__ == "__main__":
    main()
