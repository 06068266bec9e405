"""Stands in for sgdml.train."""

from typing import Any

from fastgdml.exchange import to_sgdml
from fastgdml.task import Task
from fastgdml.train import GDMLTrain as _GDMLTrain
from fastgdml.train import _assemble_kernel_mat_wkr, _share_array, glob

__all__ = ["GDMLTrain", "_assemble_kernel_mat_wkr", "_share_array", "glob"]


class GDMLTrain(_GDMLTrain):
    """`fastgdml.train.GDMLTrain` with sgdml's rule for periodic images and keys of models (``f_err``, ``e_err``)."""

    def create_task(self, *args: Any, **kwargs: Any) -> Task:
        """Create a task, with sgdml's rule for periodic images; see `fastgdml.train.GDMLTrain.create_task`."""
        return super().create_task(*args, **{"image_rule": "rounding", **kwargs})

    def create_model(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]  # keys of sgdml
        """Make a model; see `fastgdml.train.GDMLTrain.create_model`."""
        return to_sgdml(super().create_model(*args, **kwargs))
