"""Writers of files as programs print them: the parts that hold geometries, energies and forces, in their form."""

import numpy as np

from fastgdml.elements import SYMBOLS

# CODATA 2014, as in ASE
HARTREE, BOHR = 27.211386024367243, 0.5291772105638411


def write_outcar(path, z, R, E, F, lattice, free=None):
    """VASP's OUTCAR; `lattice` has the vectors as columns, `free` are free energies where they differ."""
    species = list(dict.fromkeys(z))
    counts = [int(np.count_nonzero(np.asarray(z) == s)) for s in species]
    free = E if free is None else free
    lines = [" vasp.6.3.2 27Jun22 (build) complex", ""]
    lines += [f" POTCAR:    PAW_PBE {SYMBOLS[s]} 08Apr2002" for s in species] * 2
    lines += ["   ions per type =  " + "".join(f"{n:5d}" for n in counts), "   ISPIN  =      1"]
    for r, e, f, e_free in zip(R, E, F, free, strict=True):
        lines += [
            "--------------------------------------- Iteration      1(   1)  ---------------------------------------",
            "      direct lattice vectors                 reciprocal lattice vectors",
            *("".join(f"{x:13.9f}" for x in [*v, 0.0, 0.0, 0.0]) for v in lattice.T),
            "",
            " POSITION                                       TOTAL-FORCE (eV/Angst)",
            " -----------------------------------------------------------------------------------",
            *("".join(f"{x:14.7f}" for x in [*a, *b]) for a, b in zip(r, f, strict=True)),
            " -----------------------------------------------------------------------------------",
            "",
            "  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)",
            "  ---------------------------------------------------",
            f"  free  energy   TOTEN  = {e_free:18.8f} eV",
            "",
            f"  energy  without entropy= {e_free:18.8f}  energy(sigma->0) = {e:18.8f}",
            "",
        ]
    path.write_text("\n".join(lines) + "\n")


def write_vasprun(path, z, R, E, F, lattice, frozen=()):
    """VASP's vasprun.xml, with selective dynamics where atoms are frozen."""
    inverse = np.linalg.inv(lattice.T)

    def vectors(name, rows):
        rows = "".join(f"<v>{' '.join(f'{x:.10f}' for x in row)}</v>" for row in rows)
        return f'<varray name="{name}">{rows}</varray>'

    def structure(r, name=""):
        selective = ""
        if frozen and name:
            rows = "".join(f"<v>{' '.join(['F' if i in frozen else 'T'] * 3)}</v>" for i in range(len(z)))
            selective = f'<varray name="selective" type="logical">{rows}</varray>'
        crystal = f"<crystal>{vectors('basis', lattice.T)}</crystal>"
        return f"<structure{name}>{crystal}{vectors('positions', r @ inverse)}{selective}</structure>"

    atoms = "".join(f"<rc><c>{SYMBOLS[int(n)]}</c><c>1</c></rc>" for n in z)
    parts = ['<?xml version="1.0" encoding="ISO-8859-1"?><modeling>']
    parts.append(f"<kpoints>{vectors('kpointlist', [[0.0] * 3])}{vectors('weights', [[1.0]])}</kpoints>")
    parts.append(f'<atominfo><array name="atoms"><set>{atoms}</set></array></atominfo>')
    parts.append(structure(R[0], ' name="initialpos"'))
    for r, e, f in zip(R, E, F, strict=True):
        energies = "".join(f'<i name="{name}">{e:.8f}</i>' for name in ("e_fr_energy", "e_wo_entrp", "e_0_energy"))
        parts.append(f"<calculation><scstep><energy>{energies}</energy></scstep>")
        parts.append(structure(r) + vectors("forces", f) + f"<energy>{energies}</energy></calculation>")
    path.write_text("\n".join(parts) + "</modeling>\n")


def write_orca(path, z, R, E, F):
    """Outputs of ORCA, one after the other; E in eV, F in eV/Angstrom."""
    lines = ["                                 *****************", "                                 * O   R   C   A *"]
    lines.append("                                 *****************")
    for r, e, f in zip(R, E, F, strict=True):
        lines += [
            "---------------------------------",
            "CARTESIAN COORDINATES (ANGSTROEM)",
            "---------------------------------",
            *(f"  {SYMBOLS[int(n)]:<4}" + "".join(f"{x:12.6f}" for x in a) for n, a in zip(z, r, strict=True)),
            "",
            f"Number of atoms                             ...      {len(z)}",
            "",
            f"FINAL SINGLE POINT ENERGY     {e / HARTREE:20.12f}",
            "",
            "------------------",
            "CARTESIAN GRADIENT",
            "------------------",
            "",
            *(
                f"{i + 1:4d}   {SYMBOLS[int(n)]:<3}:" + "".join(f"{x:15.9f}" for x in -b / HARTREE * BOHR)
                for i, (n, b) in enumerate(zip(z, f, strict=True))
            ),
            "",
            "                             ****ORCA TERMINATED NORMALLY****",
        ]
    path.write_text("\n".join(lines) + "\n")


def write_gaussian(path, z, R, E, F):
    """A log of Gaussian; E in eV, F in eV/Angstrom."""
    lines = [" Entering Gaussian System, Link 0=g16", " #p b3lyp/6-31g(d) force", ""]
    for r, e, f in zip(R, E, F, strict=True):
        rule = " " + "-" * 69
        lines += [
            "                          Input orientation:",
            rule,
            " Center     Atomic      Atomic             Coordinates (Angstroms)",
            " Number     Number       Type             X           Y           Z",
            rule,
            *(
                f"{i + 1:7d}{int(n):11d}{0:12d}    " + "".join(f"{x:12.6f}" for x in a)
                for i, (n, a) in enumerate(zip(z, r, strict=True))
            ),
            rule,
            f" SCF Done:  E(RB3LYP) =  {e / HARTREE:.9f}     A.U. after   10 cycles",
            " -------------------------------------------------------------------",
            " Center     Atomic                   Forces (Hartrees/Bohr)",
            " Number     Number              X              Y              Z",
            " -------------------------------------------------------------------",
            *(
                f"{i + 1:7d}{int(n):9d}    " + "".join(f"{x:15.9f}" for x in b / HARTREE * BOHR)
                for i, (n, b) in enumerate(zip(z, f, strict=True))
            ),
            " -------------------------------------------------------------------",
        ]
    path.write_text("\n".join(lines) + "\n Normal termination of Gaussian 16\n")


def write_cp2k(folder, z, R, E, F):
    """CP2K's trajectories: positions in Angstrom, energies in Hartree, forces in Hartree/Bohr, in two files."""
    for name, numbers in (("pos", R), ("frc", F / HARTREE * BOHR)):
        lines = []
        for i, (a, e) in enumerate(zip(numbers, E, strict=True)):
            lines += [str(len(z)), f" i = {i:8d}, time = {i * 0.5:12.3f}, E = {e / HARTREE:20.10f}"]
            rows = ("".join(f"{x:20.10f}" for x in row) for row in a)
            lines += [f" {SYMBOLS[int(n)]:>2}{row}" for n, row in zip(z, rows, strict=True)]
        (folder / f"md-{name}-1.xyz").write_text("\n".join(lines) + "\n")


def write_ipi(folder, z, R, E, F, strides=(1, 1, 1)):
    """Outputs of i-PI: positions in Angstrom, forces in atomic units, properties with the potential in eV."""
    head = "# CELL(abcABC):" + "  200.00000" * 3 + "   90.00000" * 3 + "  Step: {:11d}  Bead: "
    for name, tail, numbers, stride in (
        ("pos_0", "positions{angstrom}  cell{angstrom}", R, strides[0]),
        ("for_0", "forces{atomic_unit}  cell{atomic_unit}", F / HARTREE * BOHR, strides[1]),
    ):
        lines = []
        for step in range(0, len(numbers), stride):
            lines += [str(len(z)), head.format(step) + "      0 " + tail]
            lines += [
                f"{SYMBOLS[int(n)]:>8}" + "".join(f" {x:15.8e}" for x in row)
                for n, row in zip(z, numbers[step], strict=True)
            ]
        (folder / f"sim.{name}.xyz").write_text("\n".join(lines) + "\n")
    lines = [
        "# column   1     --> step : The current simulation time step.",
        "# column   2     --> conserved{electronvolt} : The value of the conserved energy quantity per bead.",
        "# column   3     --> potential{electronvolt} : The physical system potential energy.",
    ]
    lines += [f"  {s:14.8e}  {E[s] + 1:16.10e}  {E[s]:16.10e}" for s in range(0, len(E), strides[2])]
    (folder / "sim.out").write_text("\n".join(lines) + "\n")


def write_deepmd(folder, z, R, E, F, lattice=None, per_set=100):
    """A folder of DeePMD-kit; `lattice` has the vectors as columns."""
    species = sorted({int(n) for n in z})
    folder.mkdir()
    (folder / "type.raw").write_text("\n".join(str(species.index(n)) for n in z) + "\n")
    (folder / "type_map.raw").write_text("\n".join(SYMBOLS[n] for n in species) + "\n")
    if lattice is None:
        (folder / "nopbc").touch()
    for i, first in enumerate(range(0, len(R), per_set)):
        part = folder / f"set.{i:03d}"
        part.mkdir()
        rows = slice(first, first + per_set)
        n = len(R[rows])
        box = np.eye(3) * 100 if lattice is None else lattice.T
        np.save(part / "coord.npy", R[rows].reshape(n, -1))
        np.save(part / "energy.npy", E[rows])
        np.save(part / "force.npy", F[rows].reshape(n, -1))
        np.save(part / "box.npy", np.tile(box.ravel(), (n, 1)))


def write_aims(path, z, r, e, f):
    """An output of FHI-aims for one geometry; e in eV, f in eV/Angstrom."""
    lines = [
        "          Invoking FHI-aims ...",
        "  | Number of species                 :        3",
        f"  | Number of atoms                   : {len(z):8d}",
        "  | Number of spin channels           :        1",
        "  Input geometry:",
        "  | No unit cell requested.",
        "  | Atomic structure:",
        "  |       Atom                x [A]            y [A]            z [A]",
        *(
            f"  |{i + 1:5d}: Species {SYMBOLS[int(n)]:<4}" + "".join(f"{x:17.8f}" for x in a)
            for i, (n, a) in enumerate(zip(z, r, strict=True))
        ),
        "  | Number of Kohn-Sham states (occupied + empty):       30",
        "  The structure contains       26 atoms,  and a total of         26.000 electrons.",
        "          Begin self-consistency loop: Initialization.",
        "  Convergence:    q app. |  density  | eigen (eV) | Etot (eV) | forces (eV/A) |       CPU time",
        "  Self-consistency cycle converged.",
        "  Energy and forces in a compact form:",
        f"  | Total energy uncorrected      : {e:30.15E} eV",
        f"  | Total energy corrected        : {e:30.15E} eV",
        f"  | Electronic free energy        : {e:30.15E} eV",
        "  Total atomic forces (unitary forces cleaned) [eV/Ang]:",
        *(f"  |{i + 1:5d}" + "".join(f"{x:30.15E}" for x in b) for i, b in enumerate(f)),
        "  ------------------------------------------------------------",
        "          Have a nice day.",
    ]
    path.write_text("\n".join(lines) + "\n")
