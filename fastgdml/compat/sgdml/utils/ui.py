"""Stands in for sgdml.utils.ui: what scripts print with."""

import re
import sys
import textwrap
from typing import Any

import numpy as np

from fastgdml.compat.sgdml import LOG_LEVELNAME_WIDTH, MAX_PRINT_WIDTH
from fastgdml.dataset import text

# Numbers of terminal colours.
BLACK, RED, GREEN, YELLOW, BLUE, MAGENTA, CYAN, WHITE = range(8)
GRAY = 60

RESET_SEQ = "\033[0m"


def yes_or_no(question: str) -> bool:
    """Ask a question; any answer that does not begin with "y" means no."""
    return input(f"{question} (y/n): ").strip().lower().startswith("y")


def callback(
    current: float,
    total: float = 1,
    disp_str: str = "",
    sec_disp_str: str | None = None,
    done_with_warning: bool = False,
    newline_when_done: bool = True,
) -> None:
    """Show progress on one line of standard output: a `fastgdml.progress.Callback`.

    Where the output is no terminal, a line appears once a step is done.
    """
    done = bool(np.isclose(current, total))
    if not done and not sys.stdout.isatty():
        return
    if total != 1:
        flag = color_str(f"[{int(100 * current / total):3d}%]", GREEN if done else WHITE, bold=True)
    elif not done:
        flag = "[ .. ]"
    else:
        flag = color_str(*(("[WARN]", YELLOW) if done_with_warning else ("[DONE]", GREEN)), bold=True)
    line = f"{flag} {disp_str}"
    if sec_disp_str is not None:
        width = MAX_PRINT_WIDTH - LOG_LEVELNAME_WIDTH - len(disp_str) - 1
        line += color_str(f" {sec_disp_str:>{width}}", GRAY)
    sys.stdout.write(("\r" if sys.stdout.isatty() else "") + line + ("\n" if done and newline_when_done else ""))
    sys.stdout.flush()


def color_str(str: str, fore_color: int = WHITE, back_color: int = BLACK, bold: bool = False) -> str:
    """Return text with the codes for colours of a terminal, if standard output is one."""
    if not sys.stdout.isatty():
        return str
    return f"\033[{int(bold)};{30 + fore_color};{40 + back_color}m{str}{RESET_SEQ}"


def unicode_str(s: Any) -> str:
    """Return a text entry of a file as str."""
    return text(s)


def gen_memory_str(bytes: float) -> str:
    """Return a number of bytes in the largest unit that leaves it above 1."""
    size, power = float(bytes), 0
    while size > 1024 and power < 4:
        size, power = size / 1024, power + 1
    return f"{size:.{max(0, power - 2)}f} {'KMGT'[power - 1] if power else ''}B"


def str_plen(str: str) -> int:
    """Return the number of characters that a text takes on the screen, colour codes left out."""
    return len(re.sub(r"\033\[[\d;]*m", "", str))


def wrap_str(str: str, width: int = MAX_PRINT_WIDTH - LOG_LEVELNAME_WIDTH) -> str:
    """Break every line of a text at `width` characters, between words."""
    return "\n".join(
        "\n".join(
            textwrap.wrap(line, width + len(line) - str_plen(line), break_long_words=False, replace_whitespace=False)
        )
        for line in str.splitlines()
    )


def indent_str(str: str, indent: int) -> str:
    """Indent every line of a text."""
    return "\n".join(" " * indent + line for line in str.split("\n"))


def merge_col_str(col_str1: str, col_str2: str) -> str:
    """Set two texts of the same number of lines side by side."""
    return "\n".join(f"{one} {other}" for one, other in zip(col_str1.split("\n"), col_str2.split("\n"), strict=False))


def gen_mat_str(mat: np.ndarray) -> tuple[str, list[int]]:
    """Return a matrix as text with aligned decimal points, six digits a number, and the widths of its columns."""
    mat = np.asarray(mat)
    lead = np.array([[len(str(int(abs(x)))) + (x < 0) for x in row] for row in mat])  # characters before the point
    decimals = np.array([[len(f"{x:g}".partition(".")[2]) for x in row] for row in mat])
    widest, most = lead.max(axis=0), decimals.max(axis=0)
    lines = [
        " ".join(" " * (widest[j] - lead[i, j]) + f"{x:<{lead[i, j] + most[j] + 1}g}" for j, x in enumerate(row))
        for i, row in enumerate(mat)
    ]
    return "\n".join(lines), [int(width) for width in widest + most + 1]


def gen_range_str(min: float, max: float) -> str:
    """Return an interval and its length as text."""
    return f"{min:<.3f} |-- {max - min:^8.3f} --| {max:<9.3f}"


def print_step_title(title_str: str, sec_title_str: str = "", underscore: bool = True) -> None:
    """Print the title of a step of the work."""
    title = color_str(f" {title_str} ", BLACK, WHITE, bold=True)
    print(
        f"\n{title}{' ' if sec_title_str else ''}{sec_title_str}" + (f"\n{'-' * MAX_PRINT_WIDTH}" if underscore else "")
    )


def print_two_column_str(str: str, sec_str: str = "") -> None:
    """Print one text at the left margin and another one at the right."""
    print(f"{str} {color_str(f'{sec_str:>{MAX_PRINT_WIDTH - str_plen(str) - 1}}', GRAY)}")
