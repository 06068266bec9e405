"""Pictures as SVG to put into a page."""

from __future__ import annotations

import io
import re
from html import escape

from .pictures import Picture
from .style import THEME, new_figure, styled


def inline_svg(picture: Picture) -> str:
    """Return a picture as an element of a page: text as text, colours as variables of CSS, as wide as there is room.

    Identifiers get the name of the picture in front, because those of several pictures share a page.
    """
    file = io.StringIO()
    with styled():
        figure = new_figure(picture.height)
        picture.draw(figure)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{picture.name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{picture.name}-\1)", text)
    text = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{picture.name}-\1"', text)
    for colour, name in THEME.items():
        text = text.replace(colour, f"var(--{name})")
    head, body = text.split(">", 1)
    box = re.search(r'viewBox="([^"]+)"', head)
    assert box is not None
    label = f'role="img" aria-label="{escape(picture.title + ": " + picture.caption)}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box[1]}" {label}>{body}'
