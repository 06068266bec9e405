"""Where the source tree and the reference data are."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("FASTGDML_SHARED", ROOT.parent / "shared"))

REFERENCE_CASES = ["ethanol_sgdml", "ethanol_gdml", "ethanol_noE", "ethanol_ecstr", "aspirin_sgdml", "cu111_periodic"]


def shared_file(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not there: set FASTGDML_SHARED to the folder with the reference data")
    return path
