"""The role `src`: a link to a line of the source, which is found by name when the documentation is built.

``{src}`src/cell.c``` links to a file, ``{src}`src/cell.c:gdml_fold``` to the line where that name is defined, or else
to the first line that contains the text. A file or text that is not there is a warning, an error under ``-W``: a link
cannot outlive what it names. Files that are linked to become pages of the documentation, coloured and numbered: links
need no network and show the version that is documented.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "_source"

_log = logging.getLogger(__name__)


def line_of(text: str, name: str) -> int | None:
    """Return the line, from 1, where a name is defined, or else where a text first stands; None if it does not."""
    lines = text.splitlines()
    if re.fullmatch(r"\w+", name):
        word = re.escape(name)
        definition = re.compile(
            rf"^\s*(?:class|(?:async )?def|cdef .*?)\s+{word}\b"  # Python, Cython
            rf"|^\s*#define {word}\b"
            rf"|^(?![ \t#*/]|return|else)[\w \t*]*\b{word}\s*(?:\(|=)"  # C: at the left margin
        )
        declared = [k for k, line in enumerate(lines, 1) if definition.match(line)]
        bodies = [k for k in declared if not lines[k - 1].rstrip().endswith(";")]
        if declared:
            return (bodies or declared)[0]
    return next((k for k, line in enumerate(lines, 1) if name in line), None)


class SourceRole(SphinxRole):
    """The role: text `path` or `path:name`."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the link."""
        path, _, name = self.text.partition(":")
        literal = nodes.literal(text=f"{name} in {path}" if name else path, classes=["src"])
        line = self._line(path, name)
        if line is None:
            return [literal], []
        self.env.metadata.setdefault(self.env.docname, {}).setdefault("source_files", set()).add(path)
        depth = len(PurePosixPath(self.env.docname).parts) - 1
        return [
            nodes.reference("", "", literal, refuri=f"{'../' * depth}{FOLDER}/{path}.html#L-{line}", internal=True)
        ], []

    def _line(self, path: str, name: str) -> int | None:
        file = ROOT / path
        if not file.is_file():
            _log.warning("no file %s in the source", path, location=self.get_location())
            return None
        self.env.note_dependency(str(file))
        line = line_of(file.read_text(encoding="utf-8"), name) if name else 1
        if line is None:
            _log.warning("%s has no %s", path, name, location=self.get_location())
        return line


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield a page for each file that is linked to."""
    files = set().union(*(data.get("source_files", set()) for data in app.env.metadata.values()))
    for path in sorted(files):
        text = (ROOT / path).read_text(encoding="utf-8")
        try:
            lexer = get_lexer_for_filename(path)
        except ClassNotFound:
            lexer = TextLexer()
        formatter = HtmlFormatter(linenos="table", lineanchors="L", anchorlinenos=True)
        body = f'<h1>{path}</h1>\n<div class="source-file">{highlight(text, lexer, formatter)}</div>'
        yield f"{FOLDER}/{path}", {"title": path, "body": body}, "page.html"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the role."""
    app.add_role("src", SourceRole())
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
