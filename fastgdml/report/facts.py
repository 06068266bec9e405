"""What a report says, as plain values that go through JSON without a loss."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from typing import Any

from .._version import __version__
from ..errors import DataError
from ..learning_curve import CurvePoint


@dataclass(frozen=True)
class Origin:
    """What a model is and where it comes from; an empty text or None is unknown.

    Attributes
    ----------
    file, name, formula, theory : str
        File of the model; system, sum formula and level of theory of its dataset.
    n_atoms, n_train, n_perms : int
        Number of atoms, training points, permutations.
    sig, lam : float
        Length scale and regularisation.
    label_noise : float or None
        Noise of force components that lambda stands for.
    e_unit, r_unit, f_unit : str
        Units.
    energies : str
        How energies were fitted.
    cell : list of 3 lists of 3 floats, or None
        Lattice vectors a, b, c; of several cells the first.
    entries : dict
        Further names and values of the model, in the order to show.
    """

    file: str
    name: str
    formula: str
    theory: str
    n_atoms: int
    n_train: int
    n_perms: int
    sig: float
    lam: float | None
    e_unit: str
    r_unit: str
    f_unit: str
    energies: str
    cell: list[list[float]] | None
    entries: dict[str, str]
    label_noise: float | None = None


@dataclass(frozen=True)
class Geometry:
    """A geometry to draw: positions (N, 3) and which atoms are bonded."""

    R: list[list[float]]
    bonds: list[list[int]]


@dataclass(frozen=True)
class Molecule:
    """The atoms, and what the permutations do with them.

    Attributes
    ----------
    z : list of int
        Atomic numbers.
    symbols : list of str
        Chemical symbols.
    geometry : Geometry or None
        What to draw; None where a model alone does not tell.
    geometry_from : str
        Where it is from.
    orbits : list of lists of int
        Atoms that permutations exchange with each other, two or more in each.
    cycles : list of str
        The first permutations, as cycles.
    """

    z: list[int]
    symbols: list[str]
    geometry: Geometry | None
    geometry_from: str
    orbits: list[list[int]]
    cycles: list[str]


@dataclass(frozen=True)
class Trial:
    """A model of the search for sigma with its validation errors."""

    sig: float
    f_mae: float | None
    f_rmse: float | None
    e_mae: float | None
    e_rmse: float | None


@dataclass(frozen=True)
class PairWeight:
    """Pairs of atoms that permutations exchange, and their learned weight, whose geometric mean over all pairs is 1."""

    pairs: str
    weight: float


@dataclass(frozen=True)
class Quantity:
    """Errors of a quantity: mean absolute, root mean square, and mean of predicted minus reference, if known."""

    mae: float
    rmse: float
    mean: float | None


@dataclass(frozen=True)
class Density:
    """Number of pairs (reference, prediction) in the squares of a grid of n x n from `low` to `high`.

    `cells` holds [column, row, count] of those that are not empty.
    """

    low: float
    high: float
    n: int
    cells: list[list[int]]


@dataclass(frozen=True)
class Histogram:
    """Counts between equally spaced edges from `low` to `high`, and of what lies outside."""

    low: float
    high: float
    counts: list[int]
    n_outside: int


@dataclass(frozen=True)
class Spread:
    """Distribution of the error of the force vector of some atoms, its length: mean and quantiles in per cent."""

    label: str
    n_atoms: int
    mean: float
    p5: float
    p25: float
    p50: float
    p75: float
    p95: float


@dataclass(frozen=True)
class Worst:
    """A geometry with large errors: its number in the dataset, errors, and that of the force on each atom."""

    number: int
    f_rmse: float
    e_error: float | None
    geometry: Geometry
    atoms: list[float]


@dataclass(frozen=True)
class Deviations:
    """Standard deviations against errors.

    Attributes
    ----------
    force_ratio, energy_ratio : float or None
        Root mean square error over root mean square deviation, of components of forces and of energies; 1 is right.
    rank_correlation : float or None
        Spearman's, of errors of forces of geometries with their deviations.
    parts : list of lists of 2 floats
        Geometries from small to large deviation in parts of equal size: root mean square deviation and error of each.
    """

    force_ratio: float | None
    energy_ratio: float | None
    rank_correlation: float | None
    parts: list[list[float]]


@dataclass(frozen=True)
class Accuracy:
    """Predictions against the labels of a dataset, in the units of the model.

    Attributes
    ----------
    dataset, fingerprint : str
        Name and fingerprint of the dataset.
    n_geometries, n_left : int
        Number of geometries compared, and of those that the model has not seen.
    forces : Quantity
        Errors of components of forces.
    energies : Quantity or None
        Errors of energies.
    f_density, e_density : Density
        Predicted against reference values; of energies relative to the mean of the references.
    f_histogram, e_histogram : Histogram
        Predicted minus reference values.
    elements, atoms : list of Spread
        Errors of force vectors by element and by atom.
    worst : list of Worst
        The geometries with the largest errors of forces.
    deviations : Deviations or None
        How standard deviations compare with errors, of a model with samples for them.
    """

    dataset: str
    fingerprint: str
    n_geometries: int
    n_left: int
    forces: Quantity
    energies: Quantity | None
    f_density: Density
    e_density: Density | None
    f_histogram: Histogram
    e_histogram: Histogram | None
    elements: list[Spread]
    atoms: list[Spread]
    worst: list[Worst]
    deviations: Deviations | None = None


@dataclass(frozen=True)
class Timing:
    """How fast the model predicts here: geometries a second in bulk, microseconds for one alone."""

    bulk_per_s: float
    single_us: float
    n_threads: int
    machine: str


@dataclass(frozen=True)
class Facts:
    """All that a report says.

    Attributes
    ----------
    made : str
        Date and time.
    origin, molecule, accuracy, timing
        What the model is, its atoms, its errors on a dataset, its speed.
    expected : dict
        Errors that the model records, of 'force' and 'energy'.
    expected_from : str
        Whether they are from a 'test' or the 'validation'.
    search : list of Trial
        The search for sigma.
    learning_curve : list of CurvePoint
        Errors by the number of training points.
    left_out : Quantity or None
        Errors of components of forces of training points, predicted without the point, if the model records them.
    weights : list of PairWeight
        Learned weights of pairs, the heaviest first; empty for a model without.
    version : str
        Version of fastgdml.
    """

    made: str
    origin: Origin
    molecule: Molecule
    expected: dict[str, Quantity]
    expected_from: str
    search: list[Trial] = field(default_factory=list)
    accuracy: Accuracy | None = None
    learning_curve: list[CurvePoint] = field(default_factory=list)
    timing: Timing | None = None
    left_out: Quantity | None = None
    weights: list[PairWeight] = field(default_factory=list)
    version: str = __version__

    def to_json(self) -> str:
        """Return the facts as JSON."""
        return json.dumps(dataclasses.asdict(self), allow_nan=False, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Facts:
        """Return the facts that `to_json` wrote.

        Raises
        ------
        DataError
            If the text is something else.
        """
        try:
            return typing.cast(Facts, _build(cls, json.loads(text)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"This is not the JSON of a report: {type(error).__name__}: {error}.") from None


def _build(kind: Any, value: Any) -> Any:
    """Return a value of JSON as what a type annotation says."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        unknown = value.keys() - hints.keys()
        if unknown:
            raise ValueError(f"{', '.join(sorted(unknown))} is unknown")
        return kind(**{name: _build(hints[name], part) for name, part in value.items()})  # type: ignore[operator]
    if isinstance(kind, types.UnionType):
        rest = [each for each in typing.get_args(kind) if each is not types.NoneType]
        return None if value is None else _build(rest[0], value)
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is list:
        return [_build(parts[0], each) for each in _checked(value, list)]
    if origin is dict:
        return {key: _build(parts[1], each) for key, each in _checked(value, dict).items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return _checked(value, kind)


def _checked(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value
