"""Learning on the fly: from one geometry and a calculator to a model.

>>> from fastgdml.learning import LearnOptions, learn
>>> learned = learn("start.xyz", "model.npz", "tblite.ase:TBLite", LearnOptions(temperature=500))
"""

from .learner import Errors
from .options import LearnOptions
from .run import Files, Learned, learn

__all__ = ["Errors", "Files", "LearnOptions", "Learned", "learn"]
