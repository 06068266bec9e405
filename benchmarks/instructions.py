"""Instructions of the kernels, counted by valgrind: a check for regressions that no noise disturbs.

    python benchmarks/instructions.py              print the counts beside the recorded ones
    python benchmarks/instructions.py --record     record the counts in instructions.json

Counts depend on the compiler, so compare those of one compiler only (it is recorded, too). The AVX2 kernels are
counted, because valgrind knows no AVX-512.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

RECORD = Path(__file__).with_name("instructions.json")
WORK = """
import numpy as np
from fastgdml.dataset import load_dataset
from fastgdml.descriptor import jacobian_dot, tril_perms_lin
from fastgdml.kernel import Coordinates, assemble_packed
from fastgdml.predict import GDMLPredict
from fastgdml.training_set import TrainingSet
R = load_dataset("ethanol")["R"]
turn = np.array([np.r_[:3, np.roll(np.arange(3, 6), k), 6:9] for k in range(3)])
training = TrainingSet.from_R(R[:64], turn, 20.0)
assemble_packed(training, Coordinates.full(64, 27), n_threads=1)
alphas = np.random.default_rng(0).normal(size=(64, 27))
model = dict(z=np.ones(9), R_desc=training.x.T, R_d_desc_alpha=jacobian_dot(training.g, alphas),
             tril_perms_lin=tril_perms_lin(turn), sig=20.0, std=1.0, c=0.0)
predictor = GDMLPredict(model, max_processes=1)
"""
PLAIN = "predictor.predict(R[64:128].reshape(64, -1))"
# 16 samples: what a tile costs more than that of predict_tile is the price of standard deviations.
DEVIATIONS = """
model |= dict(std_R_d_desc_alpha=np.random.default_rng(1).normal(size=(16, 64, 36)), std_c=np.zeros(16))
GDMLPredict(model, max_processes=1).predict(R[64:128].reshape(64, -1), return_std=True)
"""
KERNELS = {"kernel_tile": PLAIN, "predict_tile": PLAIN, "deviations_tile": DEVIATIONS}


def count() -> dict[str, int]:
    """Return the instructions executed in each kernel, with all that it calls."""
    counts = {}
    for kernel, prediction in KERNELS.items():
        with tempfile.TemporaryDirectory() as folder:
            command = [
                "valgrind",
                "--tool=callgrind",
                f"--toggle-collect={kernel}",
                f"--callgrind-out-file={folder}/out",
                sys.executable,
                "-c",
                WORK + prediction,
            ]
            environment = {**os.environ, "FASTGDML_ISA": "v3", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
            done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=True)
        match = re.search(r"Collected : (\d+)", done.stderr)
        if match is None:
            raise RuntimeError(f"valgrind gave no count:\n{done.stderr[-500:]}")
        counts[kernel] = int(match.group(1))
    return counts


def main() -> None:
    """Count, compare, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--smoke", action="store_true", help="the same: it is small")
    args = parser.parse_args()
    if shutil.which("valgrind") is None:
        print("valgrind is not installed: nothing was counted")
        return
    compiler = subprocess.run(["cc", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    counts = count()
    recorded = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for kernel, instructions in counts.items():
        before = recorded.get("counts", {}).get(kernel)
        change = f"{instructions / before - 1:+.1%} of {before:,}" if before else "not recorded"
        print(f"{kernel:<14} {instructions:>14,} instructions   {change}")
    print(f"compiler: {compiler}   (recorded with {recorded.get('compiler', 'none')})")
    if args.record:
        RECORD.write_text(json.dumps({"compiler": compiler, "counts": counts}, indent=2) + "\n")


if __name__ == "__main__":
    main()
