"""fastgdml: symmetric gradient-domain machine-learned (sGDML) force fields, trained and evaluated fast.

>>> from fastgdml.dataset import load_dataset
>>> from fastgdml.train import GDMLTrain
>>> from fastgdml.predict import GDMLPredict
"""

try:
    from ._version import __version__
except ModuleNotFoundError as error:
    raise ImportError(
        "fastgdml is being imported from its source folder, where it is not built. Start Python in another folder, or "
        "install in place: pip install --no-build-isolation -e ."
    ) from error

__all__ = ["__version__", "show_config"]


def show_config(mode: str = "stdout") -> dict[str, object] | None:
    """Show versions, instruction set, threads, OpenMP and BLAS of this installation.

    Parameters
    ----------
    mode : {'stdout', 'dicts'}
        Print, as `numpy.show_config` does, or return a dict.
    """
    from .config import configuration, configuration_text

    if mode == "dicts":
        return configuration()
    print(configuration_text())
    return None
