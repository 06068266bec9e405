"""Datasets of anyone's files, in one place: the functions behind `fastgdml dataset`.

>>> from fastgdml.datasets import UnitOptions, convert
>>> convert(["trajectory.xyz"], "dataset.npz", units=UnitOptions(e_unit="eV", r_unit="Ang", to_e_unit="kcal/mol"))
"""

from .convert import convert
from .formats import ReadOptions
from .inspection import check, summarise
from .labelling import label_by_calculator, label_by_model
from .reading import Report, UnitOptions
from .rearrange import dedup, draw, shuffle, split, thin
from .writing import WriteOptions

__all__ = [
    "ReadOptions",
    "Report",
    "UnitOptions",
    "WriteOptions",
    "check",
    "convert",
    "dedup",
    "draw",
    "label_by_calculator",
    "label_by_model",
    "shuffle",
    "split",
    "summarise",
    "thin",
]
