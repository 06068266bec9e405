"""The code blocks of a page of the documentation, and a run of them in page order.

Run as a program, `python pages.py PAGE`, it executes the page's Python blocks in one namespace, in the current folder.

- A block whose first line is `# name.py` becomes that file.
- An HTML comment `<!-- run` ... `-->` is a block that readers do not see: what the page takes for granted.
- `<!-- needs: NAME ... -->` before a block: modules without which it, and what follows on the page, cannot
  run; `device` is a GPU.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

# Printed, with the names, when the rest of a page cannot run here.
NEEDS = "NEEDS"

_PARTS = re.compile(
    r"^```python\n(?P<shown>.*?)^```$|^<!-- run\n(?P<hidden>.*?)^-->$|^<!-- needs: (?P<needs>[^\n]*?) -->$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A block of code, the line of the page where it begins, and what it needs to run."""

    code: str
    line: int
    shown: bool
    needs: tuple[str, ...] = ()


def blocks(text: str) -> list[Block]:
    """Return the blocks of a page in their order."""
    found = []
    needs: tuple[str, ...] = ()
    for part in _PARTS.finditer(text):
        if part["needs"] is not None:
            needs = tuple(part["needs"].split())
            continue
        shown = part["shown"] is not None
        line = text.count("\n", 0, part.start()) + 2
        found.append(Block(part["shown"] if shown else part["hidden"], line, shown, needs))
        needs = ()
    return found


def is_here(name: str) -> bool:
    """Tell whether a module can be imported; 'device', whether there is a GPU."""
    if name != "device":
        return find_spec(name) is not None
    if find_spec("cupy") is None:
        return False
    import cupy

    try:
        return cupy.cuda.runtime.getDeviceCount() > 0
    except cupy.cuda.runtime.CUDARuntimeError:
        return False


def run(page: Path) -> None:
    """Execute the blocks of a page."""
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page.read_text(encoding="utf-8")):
        missing = [name for name in block.needs if not is_here(name)]
        if missing:
            print(NEEDS, *missing)
            return
        file = re.match(r"# (\w+\.py)\n", block.code)
        if file:
            Path(file[1]).write_text(block.code, encoding="utf-8")
        else:
            exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), names)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
