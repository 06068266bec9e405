"""A report on a model: what it is, how accurate it is and where it fails.

Data flows one way: `gather` makes `Facts` of a model and a dataset, which are plain values and go through JSON; `write`
draws a page, pictures or text from facts alone. Pictures take matplotlib, ``pip install 'fastgdml[report]'``.
"""

from .facts import Facts
from .gather import Sources, gather
from .write import FORMATS, write

__all__ = ["FORMATS", "Facts", "Sources", "gather", "write"]
