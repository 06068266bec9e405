"""What the command line prints: steps with progress bars on a terminal, plain lines in a log."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console as PlainConsole
from rich.console import ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_FLAG_STYLES = {"DONE": "bold green", "WARN": "bold yellow", "FAIL": "bold red", "INFO": "bold"}


class _RateColumn(ProgressColumn):
    """Pieces a second, of work that counts pieces."""

    def render(self, task: Task) -> Text:
        """Return the rate, empty before it is known."""
        if task.speed is None or task.total is None:
            return Text("")
        return Text(f"{task.speed:,.0f}/s" if task.speed >= 10 else f"{task.speed:.2g}/s", style="dim")


class RichConsole(PlainConsole):
    """A console on which texts cannot act: control characters, as in names of files and entries, are escaped."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Yield the segments of what is printed; styles of our own are not in their texts."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


def visible(text: str) -> str:
    """Return a text with control characters escaped, also those that turn the direction of writing."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


class Console:
    """Prints results to standard output, warnings and errors to standard error.

    Parameters
    ----------
    quiet : bool
        Print warnings and errors only.
    as_json : bool
        Print results as lines of JSON (`result`), and besides them warnings and errors only.
    stdout_is_data : bool
        The standard output holds data: print results to standard error.
    """

    def __init__(self, quiet: bool = False, as_json: bool = False, stdout_is_data: bool = False) -> None:
        self._json = as_json
        self._data = stdout_is_data
        self._out = RichConsole(
            highlight=False, markup=False, soft_wrap=True, quiet=quiet or as_json, stderr=stdout_is_data
        )
        self._err = RichConsole(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self._bar: Progress | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether there is a bar that shows progress, rather than lines."""
        return self._out.is_terminal

    # ---- text ---------------------------------------------------------------------------------------------------

    def title(self, step: str, text: str = "") -> None:
        """Print the title of a step of the work."""
        self._out.print()
        self._out.print(Text.assemble((f" {step} ", "bold reverse"), " ", (text, "bold")))

    def heading(self, text: str) -> None:
        """Print the heading of a group of properties."""
        self._out.print(Text(text, style="bold"))

    def text(self, text: str = "") -> None:
        """Print a plain line."""
        self._out.print(text)

    def properties(self, rows: list[tuple[str, str]], indent: int = 2) -> None:
        """Print names and values in two columns."""
        for name, value in rows:
            label = f"{name}:" if name else ""
            self._out.print(f"{' ' * indent}{label:<20} {value}".rstrip())

    def table(self, table: Table) -> None:
        """Print a table."""
        self._out.print(table)

    def result(self, values: Mapping[str, Any]) -> None:
        """Print a result for programs: one line of JSON, where it is asked for."""
        if self._json:
            print(json.dumps(_finite(dict(values))), file=sys.stderr if self._data else sys.stdout, flush=True)

    def info(self, text: str) -> None:
        """Print a remark."""
        self._flagged(self._out, "INFO", text)

    def done(self, text: str, detail: str | None = None) -> None:
        """Print that something is finished."""
        self._flagged(self._out, "DONE", text, detail)

    def warning(self, text: str) -> None:
        """Print a warning."""
        self._flagged(self._err, "WARN", text)

    def error(self, text: str) -> None:
        """Print an error."""
        self._stop_bar()
        self._flagged(self._err, "FAIL", text)

    def confirm(self, question: str) -> bool:
        """Ask a yes-or-no question; no answer means no."""
        try:
            return self._out.input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
        except EOFError:
            return False

    def _flagged(self, console: RichConsole, flag: str, text: str, detail: str | None = None) -> None:
        line = Text.assemble((f"[{flag}]", _FLAG_STYLES[flag]), " ", text)
        if detail:
            line.append(f"  {detail}", style="dim")
        console.print(line)

    # ---- progress -----------------------------------------------------------------------------------------------

    def progress(
        self,
        current: int,
        total: int = 1,
        disp_str: str = "",
        sec_disp_str: str | None = None,
        done_with_warning: bool = False,
    ) -> None:
        """Follow a calculation: a `fastgdml.progress.Callback`."""
        if current >= total:
            self._stop_bar()
            self._flagged(self._out, "WARN" if done_with_warning else "DONE", disp_str, sec_disp_str)
        elif self._out.is_terminal:
            if self._bar is None:
                self._bar = Progress(
                    TextColumn("[ .. ] {task.description}", markup=False),
                    BarColumn(),
                    TaskProgressColumn(),
                    _RateColumn(),
                    TimeRemainingColumn(),
                    console=self._out,
                    transient=True,
                )
                self._bar.add_task(disp_str, total=None)
                self._bar.start()
            # A step of one piece has no progress to show: its bar pulses.
            self._bar.update(
                self._bar.task_ids[0],
                description=disp_str if sec_disp_str is None else f"{disp_str}: {sec_disp_str}",
                completed=current,
                total=total if total > 1 else None,
            )

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    # ---- logging ------------------------------------------------------------------------------------------------

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Show the log of the library while the context lasts."""
        logger = logging.getLogger("fastgdml")
        handler = _ConsoleHandler(self)
        level, propagate = logger.level, logger.propagate
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
            self._stop_bar()
            sys.stdout.flush()


def _finite(value: Any) -> Any:
    """Return values for JSON: it has no numbers that are not finite; None stands for them."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            self._console.warning(text)
        else:
            self._console.info(text)
