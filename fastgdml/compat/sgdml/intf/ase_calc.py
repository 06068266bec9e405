"""Stands in for sgdml.intf.ase_calc."""

from fastgdml.drivers.ase import SGDMLCalculator

__all__ = ["SGDMLCalculator"]
