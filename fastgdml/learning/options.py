"""What can be chosen of a run."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageError


@dataclass(frozen=True)
class LearnOptions:
    """How to learn.

    Attributes
    ----------
    temperature : float
        Of the trajectory, in K.
    target_mae : float
        Mean absolute error of forces, of the control points, at which to stop; in the unit of the labels.
    max_calls : int
        Most calls of the calculator.
    interval : int
        Steps from one control point to the next.
    time_step : float
        In fs.
    friction : float
        Of the Langevin dynamics, in 1/fs.
    n_control : int
        The last so many control points are compared with the target.
    n_start : int
        Geometries that the first model is made of: that given, and random displacements of it.
    sig : float or None
        Length scale; by default the one with the smallest leave-one-out errors, chosen anew while the model grows.
    use_sym : bool
        Whether to look for permutations of like atoms.
    seed : int
        Of displacements, momenta and dynamics.
    n_std : int
        Samples for standard deviations.
    max_processes : int or None
        Number of threads; all by default.
    """

    temperature: float = 500.0
    target_mae: float = 0.3
    max_calls: int = 300
    interval: int = 200
    time_step: float = 0.5
    friction: float = 0.01
    n_control: int = 20
    n_start: int = 10
    sig: float | None = None
    use_sym: bool = True
    seed: int = 0
    n_std: int = 16
    max_processes: int | None = None

    def __post_init__(self) -> None:
        positive = ("temperature", "target_mae", "max_calls", "interval", "time_step", "friction", "n_control", "n_std")
        wrong = [name for name in positive if not getattr(self, name) > 0]
        if wrong or (self.sig is not None and not self.sig > 0):
            raise UsageError(f"{', '.join(wrong) or 'sig'} must be positive.")
        if self.n_start < 2:
            raise UsageError(f"n_start is {self.n_start}; the first model needs two geometries.")
        if self.max_calls < self.n_start:
            raise UsageError(f"max_calls is {self.max_calls}, but the first model takes {self.n_start} calls.")
