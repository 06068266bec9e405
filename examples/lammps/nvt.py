"""Molecular dynamics of ethanol at 300 K in LAMMPS, with a model of fastgdml.

    fastgdml all ethanol 200 500 500                       # a model, ethanol-gfn2-xtb-train200-sym6.npz
    python make_data.py ethanol.data                       # box and atoms
    python nvt.py ethanol.data ethanol-gfn2-xtb-train200-sym6.npz --steps 20000

On several MPI ranks: mpiexec -n 2 python nvt.py ...
"""

from __future__ import annotations

import argparse

from fastgdml.drivers.lammps import attach, open_lammps

# What LAMMPS does apart from the forces of the model.
SETUP = """
units           real                            # kcal/mol, Angstrom, fs
atom_style      molecular                       # atoms know their molecule
boundary        p p p
pair_style      zero 4.0                        # no other forces; the cutoff tells LAMMPS how far ranks look
read_data       {data}
pair_coeff      * *
velocity        all create 300.0 {seed} dist gaussian mom yes rot yes
fix             integrate all nve
fix             thermostat all langevin 300.0 300.0 100.0 {seed}
timestep        0.5
thermo_style    custom step temp pe ke etotal press
thermo          {every}
"""


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("model")
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=4711)
    args = parser.parse_args()

    lmp = open_lammps(["-log", "none"])
    lmp.commands_string(SETUP.format(data=args.data, seed=args.seed, every=max(1, args.steps // 10)))
    # one call: finds the molecules, checks their elements and their order, adds the fix
    with attach(lmp, args.model) as driver:
        if lmp.extract_setting("world_rank") == 0:
            print(f"{len(driver.ids)} molecules of {driver.ids.shape[1]} atoms", flush=True)
        lmp.command("dump trajectory all custom 100 ethanol.lammpstrj id mol type x y z")
        lmp.command(f"run {args.steps}")
    lmp.finalize()


if __name__ == "__main__":
    main()
