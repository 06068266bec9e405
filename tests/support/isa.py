"""Instruction sets."""

import os

from fastgdml import _core


def isa_names():
    """The instruction sets that this processor runs."""
    names = []
    before = os.environ.get("FASTGDML_ISA")
    for name in ("baseline", "v3", "v4"):
        os.environ["FASTGDML_ISA"] = name
        try:
            _core.isa_name()
            names.append(name)
        except RuntimeError:
            pass
    if before is None:
        del os.environ["FASTGDML_ISA"]
    else:
        os.environ["FASTGDML_ISA"] = before
    return names
