"""The code blocks of a page of the documentation, and a run of them in page order.

Run as a program, `python pages.py PAGE`, it executes the page's blocks one after the other, in the current folder:

- ```` ```python ````: all in one namespace. If the first line is `# name.py`, the block becomes that file instead.
- ```` ```sh ````: by bash, which stops at the first command that fails. Folder and exported variables last until the
  page ends. Blocks of nothing but `pip install` are not run: CI has installed all that they name, see `extras`.
- ```` ```console ````: the same for lines after `$ `, continued after `> `; what is printed must be the lines in
  between. `...` stands for anything, runs of blanks are alike.

Comments of HTML, which readers do not see, say what else there is:

- `<!-- run` ... `-->`, `<!-- run sh` ... `-->`: a block that readers do not see, what the page takes for granted.
- `<!-- output -->` before a ```` ```text ```` block: what the block before it has printed.
- `<!-- file: NAME -->` before a block of any language: it becomes that file.
- `<!-- needs: NAME ... -->` before a block: what it, and all that follows on the page, cannot run without: a module, a
  program as `program:cc`, or `device`, a GPU.
- `<!-- not run: REASON -->` before a block. Blocks in other languages than these need one of the two.

Blocks of ```` ```text ```` are not code, those of ```` ```{name} ```` are Sphinx's.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from markdown_it import MarkdownIt

# Printed, with the names, when the rest of a page cannot run here.
NEEDS = "NEEDS"

_HIDDEN = re.compile(r"<!-- run(?P<shell> sh)?\n(?P<code>.*?)^-->", re.MULTILINE | re.DOTALL)
_SAID = re.compile(r"<!-- (?P<say>needs|not run|file|output)(?:: (?P<what>[^\n]*?))? -->")
_MATCH = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_STATE = ".shell-state"


@dataclass(frozen=True)
class Block:
    """A block of code, its language, the line of the page where it begins, and what was said before it."""

    code: str
    line: int
    language: str = "python"
    shown: bool = True
    needs: tuple[str, ...] = ()
    not_run: str | None = None
    file: str | None = None
    output: bool = False


def blocks(text: str) -> list[Block]:
    """Return the blocks of a page in their order, but for those of Sphinx and of plain text."""
    found, said = [], {}
    for token in MarkdownIt("commonmark").parse(text):
        line = token.map[0] + 2 if token.map else 0
        if token.type == "html_block" and (hidden := _HIDDEN.match(token.content)):
            found.append(Block(hidden["code"], line, "sh" if hidden["shell"] else "python", shown=False))
        elif token.type == "html_block":
            said |= {part["say"]: part["what"] or "" for part in _SAID.finditer(token.content)}
        elif token.type in ("fence", "code_block"):
            language = token.info.split()[0] if token.info else ""
            if not language.startswith("{") and (language != "text" or said):
                needs = tuple(said.get("needs", "").split())
                more = (needs, said.get("not run"), said.get("file"), "output" in said)
                found.append(Block(token.content, line, language, True, *more))
            said = {}
    return found


def extras(code: str) -> set[str] | None:
    """Return the extras of fastgdml in a block of nothing but `pip install`, None for any other block."""
    lines = [line for line in code.splitlines() if line.strip()]
    if not all(line.startswith("pip install ") and "&&" not in line for line in lines):
        return None
    return {name for names in re.findall(r"(?:fastgdml|\.)\[([\w,]+)\]", code) for name in names.split(",")}


def is_here(name: str) -> bool:
    """Tell whether a module can be imported, a program started; 'device', whether there is a GPU."""
    if name.startswith("program:"):
        return shutil.which(name.removeprefix("program:")) is not None
    if name != "device":
        return find_spec(name) is not None
    if find_spec("cupy") is None:
        return False
    import cupy

    try:
        return cupy.cuda.runtime.getDeviceCount() > 0
    except cupy.cuda.runtime.CUDARuntimeError:
        return False


def programs() -> str:
    """Return the search path with the programs of this installation first, also of one in place."""
    native = find_spec("fastgdml._core")
    folders = [Path(sys.executable).parent, Path(native.origin).parent if native else Path()]
    return os.pathsep.join([*map(str, folders), os.environ["PATH"]])


def shell(code: str) -> str:
    """Run commands by bash, in the folder and with the variables where the last ones stopped, and return the output."""
    script = f"""[ -e {_STATE} ] && . ./{_STATE}
set -euo pipefail
{code}
{{ echo cd "'$PWD'"; export -p; }} > "$STATE"
"""
    variables = {"PATH": programs(), "STATE": f"{os.getcwd()}/{_STATE}", "COLUMNS": "120"}
    with tempfile.TemporaryFile("w+") as printed:
        # Not a pipe: what a command left running in the background would keep it open.
        running = subprocess.Popen(
            ["bash", "-c", script],
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        status = running.wait()
        printed.seek(0)
        output = printed.read()
    if status:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        raise AssertionError(f"{output}\nexit status {status} of\n{code}")
    return output


def console(code: str) -> None:
    """Run a dialogue and compare what is printed."""
    command, expected = "", ""
    for line in [*code.splitlines(), "$ "]:
        if line.startswith("> "):
            command += "\n" + line[2:]
        elif not line.startswith("$ "):
            expected += line + "\n"
        else:
            if command:
                same(shell(command), expected)
            command, expected = line[2:], ""


def same(found: str, expected: str) -> None:
    """Raise unless the text is what is expected, but for blanks and what `...` stands for."""
    found = re.sub(r"\x1b\[[\d;]*m", "", found)
    if not doctest.OutputChecker().check_output(expected, found, _MATCH):
        raise AssertionError(f"printed:\n{found}\nexpected:\n{expected}")


def python(block: Block, page: Path, names: dict[str, object]) -> str:
    """Execute a block of Python and return what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), names)
    return printed.getvalue()


def run(page: Path) -> None:
    """Execute the blocks of a page."""
    names: dict[str, object] = {"__name__": "__main__"}
    printed = ""
    for block in blocks(page.read_text(encoding="utf-8")):
        missing = [name for name in block.needs if not is_here(name)]
        if missing:
            print(NEEDS, *missing)
            return
        if block.not_run is not None or (block.language == "sh" and extras(block.code) is not None):
            continue
        script = re.match(r"# (\w+\.py)\n", block.code) if block.language == "python" else None
        print(f"{page.name}, line {block.line}", flush=True)
        try:
            if block.output:
                same(printed, block.code)
            elif block.file or script:
                Path(block.file or script[1]).write_text(block.code, encoding="utf-8")
            elif block.language == "console":
                console(block.code)
            else:
                printed = python(block, page, names) if block.language == "python" else shell(block.code)
                print(printed, flush=True)
        except AssertionError as error:
            raise AssertionError(f'in the block of "{page}", line {block.line}: {error}') from None


if __name__ == "__main__":
    run(Path(sys.argv[1]))
