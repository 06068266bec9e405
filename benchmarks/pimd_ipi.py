"""Beads per second of path-integral MD of ethanol in i-PI, by each way to it, and with sgdml.

    python benchmarks/pimd_ipi.py [--peer-python PYTHON_WITH_SGDML_AND_IPI] [--n-train 200] [--steps 200] [--threads 1]

Needs i-PI 3.3 or newer (pip install '.[ipi]'). Each way is a run of i-PI in a process of its own: 8 beads at 300 K, a
PILE thermostat, the shipped ethanol data. Timed are its steps, without its start. The first row has no forces at all:
it is what i-PI itself takes. With --peer-python the last is i-PI's <ffsgdml> with the real sgdml and the same model.
"""

# Not called ipi.py: beside this file, Python would then take it for i-PI.

from __future__ import annotations

import argparse
import importlib.metadata
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import fastgdml.drivers
from fastgdml.dataset import load_dataset
from fastgdml.exchange import export_sgdml
from fastgdml.flat import export_flat
from fastgdml.ipi_client import program
from fastgdml.model import save_model
from fastgdml.predict import GDMLPredict
from fastgdml.train import GDMLTrain

N_BEADS = 8

INPUT = """
<simulation verbosity='quiet'>
  <output prefix='run'> <properties stride='10' filename='out'> [step, potential] </properties> </output>
  <total_steps>1000000</total_steps>
  <prng><seed>1</seed></prng>
  {forcefield}
  <system>
    <initialize nbeads='{n_beads}'>
      <file mode='xyz' units='angstrom'> start.xyz </file>
      <cell mode='abc' units='angstrom'> [50, 50, 50] </cell>
      <velocities mode='thermal' units='kelvin'> 300 </velocities>
    </initialize>
    <forces> <force forcefield='gdml'/> </forces>
    <motion mode='dynamics'>
      <dynamics mode='nvt'>
        <timestep units='femtosecond'> 0.25 </timestep>
        <thermostat mode='pile_l'> <tau units='femtosecond'> 100 </tau> </thermostat>
      </dynamics>
    </motion>
    <ensemble> <temperature units='kelvin'> 300 </temperature> </ensemble>
  </system>
</simulation>
"""
SOCKET = "<ffsocket name='gdml' mode='unix'> <address>{address}</address> {more} </ffsocket>"
DIRECT = """
<ffdirect name='gdml' pbc='false'>
  <pes>custom</pes> <pes_path>{path}</pes_path> <parameters>{{model: model.npz, n_threads: {threads}}}</parameters>
  {more}
</ffdirect>
"""
DUMMY = "<ffdirect name='gdml'> <pes>dummy</pes> </ffdirect>"
SGDML = "<ffsgdml name='gdml' pbc='false'> <sGDML_model>sgdml.npz</sGDML_model> </ffsgdml>"
BATCH = f"<batch_size>{N_BEADS}</batch_size>"

# Runs the input, and prints the shortest time of some repetitions.
WORKER = """
import sys, time
import numpy as np
if not hasattr(np, "in1d"): np.in1d = np.isin  # sgdml 1.0.3 on NumPy >= 2.4
from ipi.scripting import InteractiveSimulation
from ipi.utils.softexit import softexit
steps = int(sys.argv[1])
with open("input.xml") as file:
    simulation = InteractiveSimulation(file)
simulation.run(max(1, steps // 10))
times = []
for _ in range(3):
    start = time.perf_counter()
    simulation.run(steps)
    times.append(time.perf_counter() - start)
print("SECONDS", min(times), flush=True)
softexit.trigger(status="success", message="timed")
"""


def write_files(folder: Path, n_train: int, n_threads: int) -> None:
    """Write a model for each program, and the geometry to start from."""
    dataset = load_dataset("ethanol")
    model = GDMLTrain().train(GDMLTrain().create_task(dataset, n_train, dataset, 50, sig=20, seed=1))
    save_model(folder / "model.npz", model)
    export_flat(folder / "model.fgdml", model)
    export_sgdml(folder / "sgdml.npz", model)
    lines = [f"{s} {x} {y} {z}" for s, (x, y, z) in zip("CCOHHHHHH", dataset["R"][0].tolist(), strict=True)]
    (folder / "start.xyz").write_text("\n".join(["9", "", *lines]) + "\n")
    r = np.tile(dataset["R"][0].ravel(), (N_BEADS, 1))
    predictor = GDMLPredict(model, max_processes=n_threads)
    times = []
    for _ in range(200):
        start = time.perf_counter()
        predictor.predict(r, return_virial=True)
        times.append(time.perf_counter() - start)
    print(f"ethanol, {n_train} points, {predictor.n_perms} permutations")
    print(f"{'the model alone':<44} {N_BEADS / min(times):>9,.0f} beads/s", flush=True)


def measure(folder: Path, what: str, forcefield: str, n_steps: int, python: str, clients: list[list[str]]) -> None:
    """Print the rate of one way: i-PI in one interpreter, and the commands of its clients."""
    (folder / "input.xml").write_text(INPUT.format(forcefield=forcefield, n_beads=N_BEADS))
    running = [subprocess.Popen(command, cwd=folder) for command in clients]
    try:
        worker = [python, "-c", WORKER, str(n_steps)]
        done = subprocess.run(worker, cwd=folder, capture_output=True, text=True, check=False)
    finally:
        for client in running:
            client.terminate()
            client.wait()
    seconds = [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("SECONDS")]
    if not seconds:
        sys.exit(f"{what}: i-PI failed\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    per_step = seconds[0] / n_steps
    print(f"{what:<44} {N_BEADS / per_step:>9,.0f} beads/s {1e6 * per_step:>9,.0f} us a step", flush=True)


def measure_all(folder: Path, n_steps: int, n_threads: int, peer_python: str | None) -> None:
    """Print a row for each way."""
    address = f"fastgdml_{os.getpid()}"
    client = [str(program()), "-u", "-a", address, "-m", "model.fgdml", "-n", str(n_threads), "-w", "120"]
    one_by_one, batches = (SOCKET.format(address=address, more=more) for more in ("", BATCH))
    pes = Path(fastgdml.drivers.__file__).with_name("ipi_pes.py")
    direct = DIRECT.format(path=pes, threads=n_threads, more=BATCH)
    here = sys.executable
    measure(folder, "i-PI alone, no forces", DUMMY, n_steps, here, [])
    measure(folder, "fastgdml-ipi, one client", one_by_one, n_steps, here, [client])
    measure(folder, "fastgdml-ipi, two clients", one_by_one, n_steps, here, [client, client])
    measure(folder, "fastgdml-ipi, one client, batches", batches, n_steps, here, [client])
    measure(folder, "PES driver, <ffdirect>, batches", direct, n_steps, here, [])
    if peer_python:
        measure(folder, "sgdml, <ffsgdml>", SGDML, n_steps, peer_python, [])


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", help="interpreter that has sgdml 1.0.3 and i-PI")
    parser.add_argument("--n-train", type=int, default=200)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1, help="threads of fastgdml; sgdml chooses its processes")
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that all runs")
    args = parser.parse_args()
    n_train, n_steps = (30, 3) if args.smoke else (args.n_train, args.steps)
    try:
        print(f"i-PI {importlib.metadata.version('ipi')}", end=", ", flush=True)
    except importlib.metadata.PackageNotFoundError:
        print("skipped: i-PI is not installed: pip install '.[ipi]'")
        return
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), n_train, args.threads)
        measure_all(Path(folder), n_steps, args.threads, args.peer_python)


if __name__ == "__main__":
    main()
