"""pyproject.toml decides the version. Whatever else names it says the same, and the citation file is valid."""

from __future__ import annotations

import datetime
import re
import tomllib
from typing import Any

import pytest
import yaml

from src.base.files import ROOT

VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
CITATION: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text())
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
RELEASES = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", CHANGELOG, re.MULTILINE)
ENTITY, PERSON = {"name"}, {"family-names", "given-names"}


def test_the_citation_file_has_what_version_1_2_0_of_its_format_requires() -> None:
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["type"] == "software"
    assert all(isinstance(CITATION[name], str) and CITATION[name] for name in ("message", "title", "license"))
    for reference in CITATION["references"]:
        assert {"type", "title", "authors"} <= set(reference)
    for listed in (CITATION, *CITATION["references"]):
        assert listed["authors"]
        assert all(set(author) in (ENTITY, PERSON) for author in listed["authors"])


def test_the_citation_file_has_the_version_and_the_day_of_the_newest_release() -> None:
    assert RELEASES[0] == (VERSION, str(CITATION["date-released"]))
    assert CITATION["version"] == VERSION
    assert isinstance(CITATION["date-released"], datetime.date)


def test_the_changelog_has_its_releases_in_order_and_a_section_for_nothing_else() -> None:
    headings = re.findall(r"^## (.+)$", CHANGELOG, re.MULTILINE)
    assert headings[headings[0] == "[Unreleased]" :] == [f"[{number}] - {day}" for number, day in RELEASES]
    numbers = [tuple(map(int, number.split("."))) for number, _ in RELEASES]
    assert numbers == sorted(numbers, reverse=True)
    assert [day for _, day in RELEASES] == sorted((day for _, day in RELEASES), reverse=True)


PAGES = ("README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))


@pytest.mark.parametrize("page", sorted({*PAGES} - {"docs/log.md"}))
def test_a_page_that_names_a_release_names_the_one_that_is_made_here(page: str) -> None:
    text = (ROOT / page).read_text()
    named = re.findall(
        r"emergence-audit-(\d+\.\d+\.\d+)\.zip|--against v(\d+\.\d+\.\d+)|git tag .*?v(\d+\.\d+\.\d+)", text
    )
    assert {number for each in named for number in each if number} <= {VERSION}
