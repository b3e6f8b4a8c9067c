"""docs/walk.md names what is there, and its numbers are those of the tracked tables."""

from __future__ import annotations

import csv
import importlib
import re
from functools import reduce

import pytest

from src.base.files import ROOT

TEXT = (ROOT / "docs/walk.md").read_text()
NAMED = sorted(set(re.findall(r"\[`([\w.]+)`\]\(\.\./src/([\w/]+)\.py\)", TEXT)))
ROWS = re.findall(r"^\| (\w+), (\w+) \| (\w+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \| (\w+) \|$", TEXT, re.MULTILINE)


@pytest.mark.parametrize(("name", "path"), NAMED)
def test_every_function_is_where_the_walk_says(name: str, path: str) -> None:
    module, *inside = name.split(".")
    assert path.split("/")[-1] == module
    assert reduce(getattr, inside, importlib.import_module(f"src.{path.replace('/', '.')}"))


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(\.\./([^)#]+)\)", TEXT))))
def test_links_resolve(link: str) -> None:
    assert (ROOT / link).exists()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} {row[2]}")
def test_the_numbers_are_the_tables(row: tuple[str, ...]) -> None:
    model, source, metric, n, accuracy, chance, fingerprint = row
    with (ROOT / f"reports/tables/{'own_runs' if source == 'own' else 'gates'}.csv").open() as file:
        (found,) = [
            each for each in csv.DictReader(file) if (each["fingerprint"], each["metric"]) == (fingerprint, metric)
        ]
    assert (found["model"], found["task"], found["n"]) == (model, "logical_deduction", n)
    assert (f"{float(found['accuracy']):.3f}", f"{float(found['chance']):.3f}") == (accuracy, chance)


def test_the_walk_holds_three_numbers_and_the_whole_line() -> None:
    assert len(ROWS) == 3
    assert {
        "grid",
        "weights",
        "examples",
        "prompts",
        "store",
        "score",
        "file",
        "run",
        "collect",
        "own",
        "gates",
        "tables",
    } < {name.split(".")[0] for name, _ in NAMED}
