"""A matplotlib svg as a part of the page: small, in the page's own colours, with ids that occur once."""

from __future__ import annotations

import re

COLOURS = {
    "#000000": "var(--ink)", "black": "var(--ink)", "#595959": "var(--soft)", "#ffffff": "var(--paper)",
    "white": "var(--paper)", "#e3e3e3": "var(--line)", "#0072b2": "var(--blue)", "#e69f00": "var(--orange)",
    "#009e73": "var(--green)", "#d55e00": "var(--vermilion)",
}  # fmt: skip
"""The colours of src/pages/figures.py as those of style.css, which has them for either theme."""

DROPPED = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<!--.*?-->", re.DOTALL)
GROUP_ID = re.compile(r'<g id="[^"]*"')
ID = re.compile(r'(\bid="|href="#|url\(#)')
NUMBER = re.compile(r"-?\d+\.\d{3,}")
SIZE = re.compile(r'(<svg [^>]*?)\swidth="[^"]*"', re.DOTALL)
HEIGHT = re.compile(r'(<svg [^>]*?)\sheight="[^"]*"', re.DOTALL)


def inlined(svg: str, name: str, alt: str) -> str:
    """The svg element alone. `name` goes in front of every id; `alt` is its text alternative.

    Text stays text, which keeps a figure small and lets it be searched. Numbers keep two digits.
    """
    from markupsafe import escape

    svg = ID.sub(rf"\g<1>{name}-", GROUP_ID.sub("<g", DROPPED.sub("", svg)))
    svg = NUMBER.sub(lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), svg)
    for colour, ours in COLOURS.items():
        svg = re.sub(rf"(?<=[:\s]){colour}\b", ours, svg)
    svg = HEIGHT.sub(r"\1", SIZE.sub(r"\1", svg, count=1), count=1)
    svg = svg.replace("<svg ", f'<svg class="plot" role="img" aria-label="{escape(alt)}" ', 1)
    return "\n".join(line.strip() for line in svg.split("\n") if line.strip())
