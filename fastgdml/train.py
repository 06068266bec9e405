"""Training of GDML and sGDML models: from a dataset to a task, from a task to a model."""

from __future__ import annotations

import logging
import operator
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ._version import __version__
from .backend import array_module, resolve_backend
from .cell import Cell, check_image_rule, image_rule_of
from .dataset import Dataset, check_dataset, check_same_system, dataset_md5, load_dataset, take_points
from .descriptor import (
    Array,
    IntArray,
    from_R,
    jacobian_dot,
    perms_from_lin,
    tril_perms_lin,
)
from .diagnostics import (
    Finding,
    check_constant_energies,
    check_duplicates,
    check_energies,
    check_forces,
    check_linearity,
    check_solution,
)
from .errors import DataError, InsufficientMemoryError, UsageError
from .frames import check_training_geometries, check_training_unit
from .group import GroupTables, check_perms
from .kernel import assemble_columns, assemble_full, check_columns, energies_last, n_coordinates
from .legacy import _assemble_kernel_mat_wkr, _share_array, glob  # noqa: F401 (old names of sgdml.train)
from .model import SCHEMA, Model
from .npz import text
from .overlap import KnownGeometries, require_drawn_from
from .permutations import MAX_GROUP_SIZE, find_perms
from .predict import GDMLPredict
from .progress import Callback, Step
from .sampling import draw_stratified, draw_uniform, generator
from .solvers.choice import Solution, SolverOptions, TrainingEquations, solve
from .task import HUGE, Task, check_task
from .threads import resolve_n_threads
from .units import Conversion, Units, conversion

_log = logging.getLogger(__name__)

# Geometries used for the symmetry search, as in sgdml.
_MAX_SYMMETRY_POINTS = 1000


class GDMLTrain:
    """Create training tasks and train models from them.

    Objects share no state; several may be used side by side.

    Parameters
    ----------
    max_memory : float, optional
        Memory limit in GB (2**30 bytes), of device memory on a GPU. The memory that is available now by default.
    max_processes : int, optional
        Number of threads. All by default.
    use_torch : bool
        Accepted for compatibility with sgdml; warns, and trains on the GPU where there is one.
    backend : {'cpu', 'gpu', 'auto'}
        Where to train; see `fastgdml.backend.resolve_backend`.

    Raises
    ------
    UsageError
        If a GPU is asked for and there is none.
    """

    def __init__(
        self,
        max_memory: float | None = None,
        max_processes: int | None = None,
        use_torch: bool = False,
        backend: str = "cpu",
    ) -> None:
        self._max_memory = max_memory
        self._n_threads = resolve_n_threads(max_processes)
        self._backend = resolve_backend(backend, use_torch)
        self._device_is_optional = backend != "gpu"
        self._reported: set[Finding] = set()

    # ---- tasks --------------------------------------------------------------------------------------------------

    def create_task(
        self,
        train_dataset: Mapping[str, Any] | str | os.PathLike[str],
        n_train: int,
        valid_dataset: Mapping[str, Any] | str | os.PathLike[str],
        n_valid: int,
        sig: float,
        lam: float = 1e-10,
        perms: npt.ArrayLike | None = None,
        use_sym: bool = True,
        use_E: bool = True,
        use_E_cstr: bool = False,
        callback: Callback | None = None,
        seed: int | None = None,
        max_group_size: int = MAX_GROUP_SIZE,
        image_rule: str = "minimum",
    ) -> Task:
        """Create a task: draw the points, find the symmetries, record the parameters.

        Parameters
        ----------
        train_dataset, valid_dataset : mapping or path-like
            Datasets to draw from, or what `load_dataset` takes; without overlap if they are the same, or hold the same
            geometries.
        n_train, n_valid : int
            Number of training and validation points.
        sig : float
            Length scale of the kernel.
        lam : float
            Regularisation.
        perms : array_like of int, shape (P, N), optional
            Permutations to use instead of a search or of those in the dataset.
        use_sym : bool
            False ignores symmetries (GDML).
        use_E : bool
            False ignores energies: the model predicts them up to a constant.
        use_E_cstr : bool
            Constrain energies point by point, instead of fitting their common offset to a model of the forces.
        callback : callable, optional
            Progress; see `fastgdml.progress.Callback`.
        seed : int, optional
            Seed of the draws, recorded in the task. Without it, NumPy's global generator is used, as sgdml does.
        max_group_size : int
            A search gives up on groups of this size or larger; crystals need more than the default, sgdml's.
        image_rule : {'minimum', 'rounding'}
            With a lattice: which image of a neighbour counts, the nearest or the one that sgdml takes; see
            `fastgdml.cell`. Recorded in the task and the model.

        Returns
        -------
        dict
            The task.

        Raises
        ------
        UsageError
            If more points are asked for than there are, or energies are needed but missing or excluded.
        DataError
            If the datasets cannot be used or do not belong to the same system.
        """
        n_train, n_valid = _count("n_train", n_train, 1), _count("n_valid", n_valid, 0)
        if use_E_cstr and not use_E:
            raise UsageError("Energy constraints (use_E_cstr=True) need energies: they exclude use_E=False.")
        if not (_is_number(sig) and _is_number(lam) and 0 < sig < HUGE and 0 <= lam < HUGE):
            raise UsageError(
                f"sigma must be a positive number and lambda one that is not negative; got {sig!r} and {lam!r}."
            )
        check_image_rule(image_rule)
        same = valid_dataset is train_dataset or (
            isinstance(train_dataset, str | os.PathLike) and train_dataset == valid_dataset
        )
        train_dataset = _opened(train_dataset, "training dataset")
        valid_dataset = train_dataset if same else _opened(valid_dataset, "validation dataset")
        if use_E and "E" not in train_dataset:
            raise UsageError(
                "The dataset has no energies (key 'E'). Train on forces alone with use_E=False (--no_E), or add them."
            )
        check_same_system(train_dataset, valid_dataset, "training dataset", "validation dataset")

        step = Step(callback, "Hashing dataset(s)")
        md5_train = dataset_md5(train_dataset)
        md5_valid = md5_train if same else dataset_md5(valid_dataset)
        step.done()

        step = Step(callback, "Sampling training and validation subsets")
        rng = generator(seed) if seed is not None else np.random.mtrand._rand
        idxs_train = _draw(train_dataset, n_train, rng, None)
        drawn = take_points(train_dataset, idxs_train)
        R_train = drawn.R
        cell = None if drawn.lattice is None else Cell(drawn.lattice, image_rule)
        excluded = idxs_train
        if md5_train != md5_valid:
            known = KnownGeometries(from_R(R_train, cell, self._n_threads)[0], image_rule, Units.of(train_dataset))
            excluded = known.find_in(valid_dataset)[0]
            if len(excluded):
                _log.warning(
                    "%s geometries of the validation dataset are training points: they are not drawn for validation.",
                    f"{len(excluded):,}",
                )
        idxs_valid = _draw(valid_dataset, n_valid, rng, excluded)
        step.done()
        for what, forces in (("training", drawn.F), ("validation", valid_dataset["F"][idxs_valid])):
            if len(forces) and not np.any(forces):
                raise DataError(
                    f"All forces of the {what} points are zero. Are they a placeholder? Models are trained and chosen "
                    "by forces."
                )

        task: Task = {
            "type": "t",
            "code_version": __version__,
            "dataset_name": text(train_dataset["name"]),
            "dataset_theory": text(train_dataset["theory"]),
            "z": train_dataset["z"],
            "R_train": R_train,
            "F_train": drawn.F,
            "idxs_train": idxs_train,
            "md5_train": md5_train,
            "idxs_valid": idxs_valid,
            "md5_valid": md5_valid,
            "sig": sig,
            "lam": lam,
            "use_E": use_E,
            "use_E_cstr": use_E_cstr,
            "use_sym": use_sym,
        }
        if seed is not None:
            task["seed"] = seed
        if use_E:
            task["E_train"] = drawn.E
        for key in ("r_unit", "e_unit"):
            if key in train_dataset:
                task[key] = train_dataset[key]
        if cell is not None:
            task["lattice"], task["image_rule"] = drawn.lattice, image_rule
        R_desc = from_R(R_train, cell, self._n_threads)[0]
        self._report(check_training_geometries(R_desc, task["z"], _r_unit(task), idxs_train))
        task["perms"] = self._choose_perms(train_dataset, R_train, cell, perms, use_sym, rng, callback, max_group_size)
        return task

    def _choose_perms(
        self,
        dataset: Mapping[str, Any],
        R_train: Array,
        cell: Cell | None,
        perms: npt.ArrayLike | None,
        use_sym: bool,
        rng: np.random.RandomState,
        callback: Callback | None,
        max_group_size: int,
    ) -> IntArray:
        n_atoms = R_train.shape[1]
        if not use_sym:
            return np.arange(n_atoms)[None, :]
        if perms is None and "perms" in dataset:
            perms = dataset["perms"]
            _log.info("Using %d permutations included in the dataset.", len(np.atleast_2d(perms)))
        if perms is not None:
            perms = check_perms(perms)
            if perms.shape[1] != n_atoms:
                raise UsageError(f"The permutations are for {perms.shape[1]} atoms, the dataset has {n_atoms}.")
            return perms
        if len(R_train) > _MAX_SYMMETRY_POINTS:
            drawn = rng.choice(len(R_train), _MAX_SYMMETRY_POINTS, replace=False)
            R_train, cell = R_train[drawn], cell and cell.part(drawn)
            _log.info("The symmetry search is restricted to %d random training points.", _MAX_SYMMETRY_POINTS)
        step = Step(callback, "Finding permutational symmetries")
        found = find_perms(R_train, dataset["z"], cell, max_group_size, n_threads=self._n_threads, progress=step)
        step.done(f"found {len(found)} symmetries")
        return found

    def draw_strat_sample(
        self, T: npt.ArrayLike, n: int, excl_idxs: npt.ArrayLike | None = None, seed: int | None = None
    ) -> IntArray:
        """Draw n points whose labels T are distributed as in the whole set, none of them in `excl_idxs`.

        Parameters
        ----------
        T : array_like, shape (n_data,)
            Labels, usually energies.
        n : int
            Number of points.
        excl_idxs : array_like of int, optional
            Points not to draw.
        seed : int, optional
            Seed; without it, NumPy's global generator is used, as sgdml does.

        Returns
        -------
        ndarray of int64, shape (n,)

        Raises
        ------
        UsageError
            If there are fewer than n points to draw from.
        """
        return draw_stratified(T, n, generator(seed) if seed is not None else np.random.mtrand._rand, excl_idxs)

    # ---- models -------------------------------------------------------------------------------------------------

    def train(
        self,
        task: Mapping[str, Any],
        save_progr_callback: Callable[[Model], None] | None = None,
        callback: Callback | None = None,
        solver: str = "auto",
        tol: float = 1e-4,
        max_iter: int | None = None,
        held_out: tuple[Array, Array] | tuple[Array, Array, Array | None] | None = None,
    ) -> Model:
        """Train a model.

        Parameters
        ----------
        task : mapping
            A task from `create_task`, `create_task_from_model` or `load_task`.
        save_progr_callback : callable, optional
            Receives unconverged models of the iterative solver, every 100 seconds and on Ctrl-C. Their integration
            constant is that of the moment: they can be used as they are.
        callback : callable, optional
            Progress; see `fastgdml.progress.Callback`.
        solver : {'auto', 'closed', 'cg'}
            Closed form, conjugate gradients, or the faster of those that fit the memory limit.
        tol : float
            Conjugate gradients stop when the residual is below this share of the norm of the labels.
        max_iter : int, optional
            Most steps of conjugate gradients.
        held_out : tuple of ndarray, shapes (n, N, 3), optional
            Geometries and forces that are not trained on; conjugate gradients stop early when the mean absolute error
            on them no longer falls, with the coefficients that had the smallest. A third element holds their lattice
            vectors, (3, 3) or (n, 3, 3), by default those of the model.

        Returns
        -------
        dict
            The model.

        Raises
        ------
        DataError
            If the task cannot be used.
        InsufficientMemoryError
            If the solver does not fit into the memory limit.
        SolverError
            If the kernel matrix is singular.
        """
        check_task(task, "task")
        options = SolverOptions(solver, tol, max_iter, self._max_memory, *_earlier_run(task))
        R = np.asarray(task["R_train"], dtype=np.float64)
        cell = Cell.of(task)

        step = Step(callback, "Generating descriptors and their Jacobians")
        R_desc, R_d_desc = from_R(R, cell, self._n_threads)
        step.done()

        labels = _Labels.of(task)
        self._report(_check_training_data(task, R, R_desc, cell))
        equations = TrainingEquations(
            R,
            R_desc,
            R_d_desc,
            GroupTables.from_perms(task["perms"]),
            float(task["sig"]),
            float(task["lam"]),
            labels.y,
            labels.y_E,
            cell is not None,
            self._n_threads,
        )

        def model_of(solution: Solution) -> Model:
            model = self.create_model(
                task,
                solution.solver_name,
                R_desc,
                R_d_desc,
                tril_perms_lin(task["perms"]),
                labels.std,
                solution.alphas_F,
                solution.alphas_E,
            )
            model["lam"] = solution.lam
            model["solver_reason"] = solution.reason
            model["c"] = labels.E_mean
            return cast(Model, model | solution.entries)

        def save_checkpoint(solution: Solution) -> None:
            model = model_of(solution)
            if model["use_E"] and not equations.energies:
                model["c"] = self._recov_int_const(model, task, R_desc, R_d_desc, check=False)
            assert save_progr_callback is not None
            save_progr_callback(model)

        early_stop = None
        if held_out is not None:
            early_stop = _EarlyStop(model_of, R.shape[1:], cell, self._n_threads, self._backend, *held_out)
        checkpoint = None if save_progr_callback is None else save_checkpoint
        solution = self._solve(equations, options, callback, checkpoint, early_stop)
        if early_stop is not None and early_stop.best is not None and early_stop.stopped:
            solution = early_stop.best
        model = model_of(solution)
        if solution.solver_name == "analytic":
            self._check_solution(model, R, task["F_train"], R_desc, R_d_desc)
        if model["use_E"] and not equations.energies:
            # energies of a model that has not converged say nothing about the labels
            residual, norm = (solution.entries.get(key, 1.0) for key in ("solver_resid", "norm_y_train"))
            check = solution.solver_name == "analytic" or residual <= tol * norm
            model["c"] = self._recov_int_const(model, task, R_desc, R_d_desc, check)
        return model

    def _report(self, findings: list[Finding]) -> None:
        """Warn of findings, of each once: trainings with other parameters meet the same data."""
        for finding in findings:
            if finding.level == "error":
                raise DataError(str(finding))
            if finding not in self._reported:
                self._reported.add(finding)
                _log.warning("%s", finding)

    def _solve(
        self,
        equations: TrainingEquations,
        options: SolverOptions,
        callback: Callback | None,
        checkpoint: Callable[[Solution], None] | None,
        monitor: Callable[[Solution], bool] | None,
    ) -> Solution:
        """Solve on the processor, or on the device; there is always the processor if the device was not asked for."""
        arguments = (equations, options, callback, checkpoint, monitor)
        if self._backend == "cpu":
            return solve(*arguments)
        from .gpu.machine import device

        try:
            return solve(*arguments, device(array_module("gpu")))
        except InsufficientMemoryError as error:
            if not self._device_is_optional:
                raise
            _log.warning("%s Now training on the processor.", error)
            return solve(*arguments)

    def create_task_from_model(self, model: Mapping[str, Any], dataset: Mapping[str, Any]) -> Task:
        """Make a task that goes on with the training of a model of the iterative solver.

        Points, permutations, sigma and lambda are those of the model, and its coefficients the starting point.

        Parameters
        ----------
        model : mapping
            A model of the iterative solver, of fastgdml or sgdml.
        dataset : mapping
            The dataset that it was trained on.

        Returns
        -------
        dict
            The task.

        Raises
        ------
        UsageError
            If the model is not one of the iterative solver, or was trained on another dataset.
        """
        if text(model["solver_name"]) != "cg":
            raise UsageError(
                f"The model was trained with the solver '{text(model['solver_name'])}'; only models of the iterative "
                "solver ('cg') can be trained on."
            )
        if "alphas_F" not in model:
            raise UsageError("The model does not hold its coefficients (alphas_F), so that it cannot be trained on.")
        dataset = _opened(dataset, "dataset")
        check_same_system(model, dataset, "model", "dataset")
        require_drawn_from(model, "train", dataset, "the model")
        points = take_points(dataset, np.asarray(model["idxs_train"]), _factors_to(model, dataset))
        task: Task = {
            "type": "t",
            "code_version": __version__,
            "R_train": points.R,
            "F_train": points.F,
            "use_E_cstr": "alphas_E" in model,
            "use_sym": len(np.atleast_2d(model["perms"])) > 1,
            "alphas0_F": model["alphas_F"],
        }
        copied = (
            "dataset_name",
            "dataset_theory",
            "z",
            "idxs_train",
            "md5_train",
            "idxs_valid",
            "md5_valid",
            "sig",
            "lam",
            "use_E",
            "perms",
            "lattice",
            "image_rule",
            "r_unit",
            "e_unit",
            "seed",
            "solver_iters",
            "inducing_pts_idxs",
        )
        task |= {key: model[key] for key in copied if key in model}
        if task["use_E"]:
            if points.E is None:
                raise UsageError("The model was trained with energies, but the dataset has none (key 'E').")
            task["E_train"] = points.E
        if "alphas_E" in model:
            task["alphas0_E"] = model["alphas_E"]
        return task

    def create_model(
        self,
        task: Mapping[str, Any],
        solver: str,
        R_desc: Array,
        R_d_desc: Array,
        tril_perms_lin: IntArray,
        std: float,
        alphas_F: Array,
        alphas_E: Array | None = None,
    ) -> Model:
        """Make a model from the coefficients of a task.

        Parameters
        ----------
        task : mapping
            The task.
        solver : str
            Name of the solver that found the coefficients.
        R_desc, R_d_desc : ndarray, shapes (M, D) and (M, D, 3)
            Descriptors and compressed Jacobians of the training points.
        tril_perms_lin : ndarray of int, shape (P * D,)
            Permutations of pairs; see `fastgdml.descriptor.tril_perms_lin`.
        std : float
            Standard deviation of the labels.
        alphas_F : ndarray, shape (3 N M,)
            Coefficients of the force constraints.
        alphas_E : ndarray, shape (M,), optional
            Coefficients of energy constraints.

        Returns
        -------
        dict
            The model, with integration constant 0 and errors unknown (NaN).
        """
        model: Model = {
            "type": "m",
            "schema": SCHEMA,
            "code_version": __version__,
            "dataset_name": task["dataset_name"],
            "dataset_theory": task["dataset_theory"],
            "solver_name": solver,
            "z": task["z"],
            "idxs_train": task["idxs_train"],
            "md5_train": task["md5_train"],
            "idxs_valid": task["idxs_valid"],
            "md5_valid": task["md5_valid"],
            "n_test": 0,
            "md5_test": b"",
            "f_err_mae": np.nan,
            "f_err_rmse": np.nan,
            "R_desc": R_desc.T,
            "R_d_desc_alpha": jacobian_dot(R_d_desc, alphas_F.reshape(len(R_desc), -1)),
            "c": 0.0,
            "std": std,
            "sig": task["sig"],
            "lam": task["lam"],
            "alphas_F": alphas_F,
            "perms": task["perms"],
            "tril_perms_lin": tril_perms_lin,
            "use_E": task["use_E"],
        }
        if task["use_E"]:
            model["e_err_mae"] = model["e_err_rmse"] = np.nan
            if alphas_E is not None:
                model["alphas_E"] = alphas_E
        for key in ("lattice", "r_unit", "e_unit", "seed"):
            if key in task:
                model[key] = task[key]
        if "lattice" in task:
            model["image_rule"] = image_rule_of(task)
        return model

    def _check_solution(self, model: Model, R: Array, F: npt.ArrayLike, R_desc: Array, R_d_desc: Array) -> None:
        """Warn when rounding errors spoil the solution: compare predicted training forces with their labels."""
        predictor = GDMLPredict(model, max_processes=self._n_threads, backend=self._backend)
        predictor.set_R_desc(R_desc)
        predictor.set_R_d_desc(R_d_desc)
        (F_pred,) = predictor.predict(return_E=False)
        F, lam, std = np.asarray(F, dtype=np.float64), float(model["lam"]), float(model["std"])
        self._report(check_solution(R, F, F_pred, model["alphas_F"], std, lam, "lattice" in model))

    def _recov_int_const(
        self,
        model: Mapping[str, Any],
        task: Mapping[str, Any],
        R_desc: Array | None = None,
        R_d_desc: Array | None = None,
        check: bool = True,
    ) -> float:
        """Return the integration constant: the mean deviation of the predicted training energies from the labels.

        Warns when the comparison shows gradients instead of forces, labels that do not belong together, or energies
        and forces in different units.

        Parameters
        ----------
        model, task : mapping
            The model (with c = 0) and its task.
        R_desc, R_d_desc : ndarray, optional
            Descriptors and Jacobians of the training points, if at hand.
        check : bool
            Whether to warn.
        """
        if R_desc is None or R_d_desc is None:
            R_desc, R_d_desc = from_R(task["R_train"], Cell.of(task), self._n_threads)
        predictor = GDMLPredict(model, max_processes=self._n_threads, backend=self._backend)
        predictor.set_R_desc(R_desc)
        predictor.set_R_d_desc(R_d_desc)
        E_pred = predictor.predict()[0]
        E_ref = np.asarray(task["E_train"], dtype=np.float64).ravel()
        if check:
            R, F, idxs = task["R_train"], task["F_train"], task["idxs_train"]
            net_forces = bool(check_forces(task["z"], R, F, task.get("lattice") is not None))
            self._report(check_energies(E_ref, E_pred, R_desc, idxs, net_forces))
        return float(np.mean(E_ref - E_pred))

    # ---- kernel matrix ------------------------------------------------------------------------------------------

    def _assemble_kernel_mat(
        self,
        R_desc: Array,
        R_d_desc: Array,
        tril_perms_lin: IntArray,
        sig: float,
        desc: Any = None,
        use_E_cstr: bool = False,
        col_idxs: slice | npt.ArrayLike = slice(None),
        alloc_extra_rows: int = 0,
        callback: Callback | None = None,
    ) -> Array:
        """Assemble the kernel matrix, or some of its columns.

        Parameters
        ----------
        R_desc, R_d_desc : ndarray, shapes (M, D) and (M, D, 3)
            Descriptors and compressed Jacobians.
        tril_perms_lin : ndarray of int, shape (P * D,)
            Permutations of pairs.
        sig : float
            Length scale.
        desc : object, optional
            Accepted for compatibility with sgdml; not needed.
        use_E_cstr : bool
            Include energy constraints: a row and a column for the energy of each point, after those of all forces.
        col_idxs : slice or array_like of int
            Columns to compute, ascending and distinct.
        alloc_extra_rows : int
            Append this many uninitialised rows.
        callback : callable, optional
            Progress.

        Returns
        -------
        ndarray, shape (3 N M + alloc_extra_rows, n_cols)
            The kernel matrix, negative definite; 3 N M + M rows with energy constraints.
        """
        R_desc, R_d_desc = np.asarray(R_desc, dtype=np.float64), np.asarray(R_d_desc, dtype=np.float64)
        tables = GroupTables.from_perms(perms_from_lin(tril_perms_lin, R_desc.shape[1]))
        step = Step(callback, "Assembling kernel matrix")
        arguments = (R_desc, R_d_desc, tables, float(sig))
        if not use_E_cstr and isinstance(col_idxs, slice) and col_idxs == slice(None):
            K = assemble_full(*arguments, n_threads=self._n_threads, progress=step)
        else:
            n_atoms = tables.perm.shape[1]
            n_rows = n_coordinates(n_atoms, use_E_cstr) * len(R_desc)
            cols = check_columns(np.arange(n_rows)[col_idxs] if isinstance(col_idxs, slice) else col_idxs, n_rows)
            order = energies_last(len(R_desc), n_atoms) if use_E_cstr else np.arange(n_rows)
            picked = np.sort(order[cols])
            K = assemble_columns(*arguments, picked, n_threads=self._n_threads, progress=step, energies=use_E_cstr)
            if use_E_cstr:
                K = K[np.ix_(order, np.searchsorted(picked, order[cols]))]
        step.done()
        return K if alloc_extra_rows == 0 else np.vstack([K, np.empty((alloc_extra_rows, K.shape[1]))])


@dataclass(frozen=True)
class _Labels:
    """Scaled labels: forces y (3 N M,), negative energies y_E (M,) if they are constrained, and the scale."""

    y: Array
    y_E: Array | None
    std: float
    E_mean: float

    @classmethod
    def of(cls, task: Mapping[str, Any]) -> _Labels:
        y = np.asarray(task["F_train"], dtype=np.float64).ravel()
        if not np.ptp(y) > 0:
            raise DataError("All training forces are equal; there is nothing to learn from them.")
        if not task["use_E_cstr"]:
            std = float(np.std(y))
            return cls(y / std, None, std, 0.0)
        E = np.asarray(task["E_train"], dtype=np.float64).ravel()
        E_mean = float(np.mean(E))
        std = float(np.std(np.concatenate([y, E_mean - E])))
        return cls(y / std, (E_mean - E) / std, std, E_mean)


class _EarlyStop:
    """Says when the force error on held-out points no longer falls: not by a thousandth in three looks.

    Those at the beginning do not count: with an ill-conditioned matrix the first steps lead away from the solution.

    Attributes
    ----------
    best : Solution, optional
        The one of the smallest error so far.
    stopped : bool
        Whether it said so.
    """

    def __init__(
        self,
        model_of: Callable[[Solution], Model],
        shape: tuple[int, ...],
        cell: Cell | None,
        n_threads: int,
        backend: str,
        R: npt.ArrayLike,
        F: npt.ArrayLike,
        lattice: npt.ArrayLike | None = None,
    ) -> None:
        self._R, self._F = np.asarray(R, dtype=np.float64), np.asarray(F, dtype=np.float64)
        if self._R.shape != self._F.shape or self._R.shape[1:] != shape or len(self._R) == 0:
            raise UsageError(
                f"held_out must be geometries and forces of one shape (n, {shape[0]}, 3); got {self._R.shape}, "
                f"{self._F.shape}."
            )
        if lattice is None and cell is not None and cell.varies:
            raise UsageError("The training geometries have different lattices: held_out needs those of its geometries.")
        self._model_of, self._n_threads, self._backend, self._lattice = model_of, n_threads, backend, lattice
        self.best: Solution | None = None
        self._errors: list[float] = []
        self._looks = 0

    def __call__(self, solution: Solution) -> bool:
        predictor = GDMLPredict(self._model_of(solution), max_processes=self._n_threads, backend=self._backend)
        (F,) = predictor.predict(self._R, return_E=False, lattice=self._lattice)
        error = float(np.abs(F.reshape(self._F.shape) - self._F).mean())
        smallest = min(self._errors, default=np.inf)
        if error < smallest:
            self.best = solution
        if error < 0.999 * smallest:
            self._looks = 0
        elif smallest < self._errors[0]:
            self._looks += 1
        self._errors.append(error)
        if self.stopped:
            _log.info("The force error on held-out points no longer falls (MAE %.4g): stopping early.", smallest)
        return self.stopped

    @property
    def stopped(self) -> bool:
        return self._looks >= 3


def _earlier_run(task: Mapping[str, Any]) -> tuple[tuple[Array, Array | None, int] | None, Any]:
    """Return where a resumed training starts, and the columns of its preconditioner."""
    if "alphas0_F" not in task:
        return None, None
    start = (task["alphas0_F"], task.get("alphas0_E"), int(task.get("solver_iters", 0)))
    return start, task.get("inducing_pts_idxs")


def _opened(dataset: Mapping[str, Any] | str | os.PathLike[str], source: str) -> Dataset:
    """Return a dataset, checked, from a mapping, which is left as it is, or a file."""
    if isinstance(dataset, str | os.PathLike):
        return load_dataset(dataset)
    if not isinstance(dataset, Mapping):
        raise UsageError(f"The {source} must be a mapping with z, R, F, or a file; got {type(dataset).__name__}.")
    checked = {str(key): dataset[key] for key in dataset}
    check_dataset(checked, source)
    for key in ("name", "theory"):
        checked.setdefault(key, np.array("unknown"))
    return cast(Dataset, checked)


def _count(name: str, value: Any, least: int) -> int:
    """Return a number of points as int, or raise UsageError."""
    try:
        number = operator.index(value)
    except TypeError:
        raise UsageError(f"{name} must be an integer; got {value!r}.") from None
    if number < least:
        raise UsageError(f"{name} must be at least {least}; got {number}.")
    return number


def _is_number(value: Any) -> bool:
    array = np.asarray(value)
    return array.shape == () and array.dtype.kind in "iuf"


def _factors_to(model: Mapping[str, Any], dataset: Mapping[str, Any]) -> Conversion:
    return conversion(Units.of(dataset), Units.of(model), "dataset", "model")


def _draw(dataset: Mapping[str, Any], n: int, rng: np.random.RandomState, excl_idxs: IntArray | None) -> IntArray:
    if "E" in dataset:
        return draw_stratified(dataset["E"], n, rng, excl_idxs)
    return draw_uniform(len(dataset["F"]), n, rng, excl_idxs)


def _r_unit(entries: Mapping[str, Any]) -> str | None:
    return text(entries["r_unit"]) if "r_unit" in entries else None


def _check_training_data(task: Mapping[str, Any], R: Array, R_desc: Array, cell: Cell | None) -> list[Finding]:
    """Return what is wrong with training points, as far as it shows without a model."""
    idxs = task["idxs_train"]
    return [
        *check_training_unit(R_desc, task["z"], _r_unit(task)),
        *check_duplicates(R_desc, task["F_train"], task["perms"], idxs),
        *([] if cell is not None else check_linearity(R)),
        *check_forces(task["z"], R, task["F_train"], cell is not None, idxs),
        *(check_constant_energies(task["E_train"]) if task["use_E"] else []),
    ]
