"""Stands in for sgdml.predict."""

from fastgdml.predict import GDMLPredict, _predict_wkr, share_array

__all__ = ["GDMLPredict", "_predict_wkr", "share_array"]
