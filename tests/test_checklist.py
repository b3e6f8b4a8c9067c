"""docs/checklist.md and docs/limitations.md name what is there: files, headings, commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from src.base.files import ROOT

PAGES = {name: (ROOT / "docs" / name).read_text() for name in ("checklist.md", "limitations.md")}
LINKS = sorted({(page, link) for page, text in PAGES.items() for link in re.findall(r"\]\((?!http)([^)]+)\)", text)})


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as a forge makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_links_resolve_to_a_file_and_a_heading(page: str, link: str) -> None:
    name, _, anchor = link.partition("#")
    path = (ROOT / "docs" / name).resolve() if name else ROOT / "docs" / page
    assert path.exists()
    assert not anchor or anchor in anchors(path)


def test_every_command_named_is_there() -> None:
    text = "".join(PAGES.values())
    targets = set(re.findall(r"`make ([\w-]+)", text))
    (phony,) = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets
    assert targets <= set(phony.split())
    modules = set(re.findall(r"`python -m src\.(\w+)", text))
    assert modules
    assert all((ROOT / f"src/{name}.py").is_file() for name in modules)


def test_every_item_has_an_answer_and_says_plainly_where_it_is_not_met() -> None:
    rows = [line for line in PAGES["checklist.md"].splitlines() if line.startswith("| ") and "---" not in line]
    answers = [line.rstrip(" |").rsplit(" | ", 1)[1] for line in rows]
    assert len(rows) > 80
    assert all(answer.strip() for answer in answers)
    assert sum("**not met**" in answer for answer in answers) >= 5


def test_each_numbered_list_is_complete() -> None:
    text = PAGES["checklist.md"]
    neurips = text.split("## NeurIPS")[1].split("## ARR")[0]
    assert [int(n) for n in re.findall(r"^\| (\d+) \|", neurips, re.MULTILINE)] == list(range(1, 17))
    arr = re.findall(r"^\| ([A-E]\d)", text, re.MULTILINE)
    assert arr == [f"{part}{n}" for part, last in (("A", 3), ("B", 6), ("C", 4)) for n in range(1, last + 1)] + [
        "D1",
        "E1",
    ]
