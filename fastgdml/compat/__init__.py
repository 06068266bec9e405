"""Run code that was written for sgdml 1.0.3 on fastgdml, unmodified.

``python -m fastgdml.compat script.py ...`` runs a script; ``import fastgdml.compat.sgdml`` at the top of a program has
the same effect from there on: ``import sgdml`` and its modules lead to those in this package, whether or not sgdml is
installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType

_NAME = "sgdml"
_HOME = f"{__name__}.{_NAME}"


def install() -> None:
    """Make ``import sgdml`` find `fastgdml.compat.sgdml`, for the rest of the process.

    Raises
    ------
    ImportError
        If the real sgdml has been imported already.
    """
    if any(isinstance(finder, _AliasFinder) for finder in sys.meta_path):
        return
    present = sys.modules.get(_NAME)
    if present is not None and present is not sys.modules.get(_HOME):
        raise ImportError(
            f"sgdml itself is imported already, from {getattr(present, '__file__', 'an unknown place')}. Import "
            "fastgdml.compat.sgdml before anything that imports sgdml."
        )
    sys.meta_path.insert(0, _AliasFinder())
    sys.modules[_NAME] = importlib.import_module(_HOME)


class _AliasFinder(MetaPathFinder):
    """Finds sgdml and its submodules at their place in this package."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _NAME and not fullname.startswith(f"{_NAME}."):
            return None
        original = importlib.util.find_spec(f"{__name__}.{fullname}")
        if original is None:
            raise ModuleNotFoundError(
                f"No module named '{fullname}' in fastgdml.compat: it stands in for what scripts use of sgdml, which "
                "does not include this module.",
                name=fullname,
            )
        return ModuleSpec(
            fullname,
            _AliasLoader(original),
            origin=original.origin,
            is_package=original.submodule_search_locations is not None,
        )


class _AliasLoader(InspectLoader):
    """Loads a module under its own name and hands out that same object."""

    def __init__(self, original: ModuleSpec) -> None:
        self._original = original

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return importlib.import_module(self._original.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._original  # the import system has put the alias's there

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the code of the module, for ``python -m``."""
        loader = self._original.loader
        return loader.get_code(self._original.name) if isinstance(loader, InspectLoader) else None

    def get_source(self, fullname: str) -> str | None:
        """Return the source of the module."""
        loader = self._original.loader
        return loader.get_source(self._original.name) if isinstance(loader, InspectLoader) else None
