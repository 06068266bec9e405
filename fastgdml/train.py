"""Training of GDML and sGDML models: from a dataset to a task, from a task to a model."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from .backend import array_module, resolve_backend
from .cell import Cell
from .correlation import groups_for
from .descriptor import desc_weights_of, from_R, tril_perms_lin
from .early_stop import EarlyStop
from .errors import InsufficientMemoryError
from .findings import Reporter
from .legacy import _assemble_kernel_mat_wkr, _share_array, glob, kernel_matrix  # noqa: F401 (old names of sgdml.train)
from .model import Model, new_model
from .permutations import MAX_GROUP_SIZE
from .predict import GDMLPredict
from .preparation import PREPARING, Prepared, coefficients_of
from .progress import Callback, Step
from .sampling import draw_stratified, generator
from .solvers.choice import Solution, SolverOptions, choose, run
from .solvers.equations import TrainingEquations
from .solvers.processor import processor
from .task import Task, TaskArrays, check_task
from .task_creation import TaskOptions, create_task, task_of_model
from .threads import resolve_n_threads
from .training_checks import check_predictions, check_training_data, check_training_energies
from .types import Array, IntArray
from .uncertainty import label_noise, sample_entries
from .weights import check_kind, learn_for

_log = logging.getLogger(__name__)


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
        self._report = Reporter()
        self._prepared: Prepared | None = None

    # ---- tasks --------------------------------------------------------------------------------------------------

    def create_task(  # noqa: PLR0913 (sgdml's signature)
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
        weights: str = "none",
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
        weights : {'none', 'orbits', 'types'}
            Learn weights of pairs of atoms from the training points, and the sigma that belongs to them in place of
            `sig`: see `fastgdml.weights`. Where they do not help, the task is one without weights at the best sigma.

        Returns
        -------
        dict
            The task.

        Raises
        ------
        UsageError
            If more points are asked for than there are, energies are needed but missing or excluded, or weights are to
            be learned without validation points.
        DataError
            If the datasets cannot be used or do not belong to the same system.
        """
        options = TaskOptions(sig, lam, perms, use_sym, use_E, use_E_cstr, seed, max_group_size, image_rule)
        numbers = (train_dataset, n_train, valid_dataset, n_valid)
        check_kind(weights, n_valid)
        task = create_task(*numbers, options, self._n_threads, callback, self._report)
        return task if weights == "none" else learn_for(task, valid_dataset, weights, self._n_threads, callback)

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
        return draw_stratified(T, n, generator(seed), excl_idxs)

    # ---- models -------------------------------------------------------------------------------------------------

    def train(  # noqa: PLR0913 (sgdml's signature, and ours)
        self,
        task: Mapping[str, Any],
        save_progr_callback: Callable[[Model], None] | None = None,
        callback: Callback | None = None,
        solver: str = "auto",
        tol: float = 1e-4,
        max_iter: int | None = None,
        held_out: tuple[Array, Array] | tuple[Array, Array, Array | None] | None = None,
        n_std: int = 0,
        std_groups: npt.ArrayLike | str | None = None,
        near: Sequence[Mapping[str, Any]] = (),
    ) -> Model:
        """Train a model. What does not depend on sigma and lambda is kept for the next training of the same points.

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
        n_std : int
            Samples for standard deviations of predictions, 16 for example; see docs/theory/uncertainty.md. A model
            grows by as many times the size of its coefficients; 'auto' takes the closed form wherever that fits.
        std_groups : array_like of int, shape (M,), or int, or 'auto', optional
            Points of one number are left out together; or so many blocks, or correlated ones: `fastgdml.correlation`.
        near : sequence of mapping
            Models of the same points with other length scales: conjugate gradients begin with a combination of them.

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
        task = check_task(task, "task")
        arrays = TaskArrays.of(task)
        prepared = self._prepare(arrays, callback)
        x, g, labels, equations = prepared.x, prepared.g, prepared.labels, prepared.equations_of(arrays)
        more = (coefficients_of(near, arrays), n_std, groups_for(std_groups, arrays.idxs, x))
        options = SolverOptions(solver, tol, max_iter, self._max_memory, arrays.start, arrays.columns, *more)

        def model_of(solution: Solution) -> Model:
            lin, name = tril_perms_lin(arrays.perms), solution.solver_name
            model = self.create_model(task, name, x, g, lin, labels.std, solution.alphas_F, solution.alphas_E)
            found = {"lam": solution.lam, "solver_reason": solution.reason, "c": labels.E_mean} | solution.entries
            return cast(Model, model | found | {"label_noise": label_noise(equations, labels.std, solution)})

        def save_checkpoint(solution: Solution) -> None:
            model = model_of(solution)
            if arrays.fits_constant:
                model["c"] = self._recov_int_const(model, task, x, g, check=False)
            assert save_progr_callback is not None
            save_progr_callback(model)

        def predictor_of(solution: Solution) -> GDMLPredict:
            return self._predictor(model_of(solution))

        early_stop = None if held_out is None else EarlyStop(predictor_of, held_out, len(arrays.z), arrays.cell)
        solution = self._solve(equations, options, callback, save_progr_callback and save_checkpoint, early_stop)
        if early_stop is not None and early_stop.best is not None and early_stop.stopped:
            solution = early_stop.best
        model = model_of(solution)
        if solution.is_exact or arrays.fits_constant:
            E, F = self._predict_training_set(model, x, g)
            self._report(check_predictions(solution, arrays, labels, x, E, F))
            if arrays.E is not None and arrays.fits_constant:
                model["c"] = float(np.mean(arrays.E - E))
        if solution.jackknife is not None:
            model |= cast(Model, sample_entries(model, solution.jackknife, x, g, self._n_threads))
        return model

    def _prepare(self, arrays: TaskArrays, callback: Callback | None) -> Prepared:
        """Return the points of a task, prepared and checked; those of the last training, if they are the same."""
        if self._prepared is None or not self._prepared.serves(arrays):
            self._prepared = None  # its memory, before that of the next
            prepared = Prepared.of(arrays, self._n_threads, callback)
            self._report(check_training_data(arrays, prepared.plain_x))
            self._prepared = prepared
        else:
            Step(callback, PREPARING).done("as before")
        return self._prepared

    def _solve(
        self,
        equations: TrainingEquations,
        options: SolverOptions,
        callback: Callback | None,
        checkpoint: Callable[[Solution], None] | None,
        monitor: Callable[[Solution], bool] | None,
    ) -> Solution:
        """Solve on the processor, or on the device; there is always the processor if the device was not asked for."""
        if self._backend == "gpu":
            from .gpu.machine import device

            try:
                plan = choose(equations, options, device(array_module("gpu")))
                return run(plan, callback, checkpoint, monitor)
            except InsufficientMemoryError as error:
                if not self._device_is_optional:
                    raise
                _log.warning("%s Now training on the processor.", error)
        return run(choose(equations, options, processor(self._n_threads)), callback, checkpoint, monitor)

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
        return task_of_model(model, dataset)

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
        return new_model(task, solver, R_desc, R_d_desc, tril_perms_lin, std, alphas_F, alphas_E)

    def _predictor(self, model: Mapping[str, Any]) -> GDMLPredict:
        return GDMLPredict(model, max_processes=self._n_threads, backend=self._backend)

    def _predict_training_set(self, model: Mapping[str, Any], R_desc: Array, R_d_desc: Array) -> tuple[Array, Array]:
        """Return energies (M,) and forces (M, 3 N) that a model predicts for its training points."""
        predictor = self._predictor(model)
        predictor.set_R_desc(R_desc)
        predictor.set_R_d_desc(R_d_desc)
        E, F = predictor.predict()
        return E, F

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
            weights = desc_weights_of(task, len(task["z"]))
            R_desc, R_d_desc = from_R(task["R_train"], Cell.of(task), self._n_threads, weights)
        E_pred, _ = self._predict_training_set(model, R_desc, R_d_desc)
        E_ref = np.ravel(task["E_train"])
        if check:
            self._report(check_training_energies(TaskArrays.of(task), R_desc, E_pred))
        return float(np.mean(E_ref - E_pred))

    # ---- kernel matrix ------------------------------------------------------------------------------------------

    def _assemble_kernel_mat(  # noqa: PLR0913 (sgdml's signature)
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
        step = Step(callback, "Assembling kernel matrix")
        K = kernel_matrix(R_desc, R_d_desc, tril_perms_lin, sig, use_E_cstr, col_idxs, self._n_threads, step)
        step.done()
        return K if alloc_extra_rows == 0 else np.vstack([K, np.empty((alloc_extra_rows, K.shape[1]))])
