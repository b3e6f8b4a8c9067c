"""conf/frame: every column is declared once, with a meaning, for a reader; and what is made is what is declared."""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml

from src import report, stats
from src.base import metrics
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.frames import Schema, as_declared, differences, load_schemas, read_frame, shared_columns
from src.pages.tables import load_tables
from src.statistics.published import read_published
from src.statistics.setting import Setting

SCHEMAS = load_schemas(ROOT)
HERE = [(name, file) for name, schema in SCHEMAS.items() for file in schema.files if (ROOT / file).exists()]
WORD = re.compile(r"[A-Za-z_]\w*")


# ---- what is declared ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_declared_column_has_a_meaning(name: str) -> None:
    assert [field.name for field in SCHEMAS[name].columns if not field.meaning.strip()] == []


def test_a_column_is_declared_once_in_a_frame_and_a_file_in_one_frame() -> None:
    for schema in SCHEMAS.values():
        names = [field.name for field in schema.columns]
        assert len(names) == len(set(names)), schema.name
    files = [file for schema in SCHEMAS.values() for file in schema.files]
    assert len(files) == len(set(files))


def test_no_column_is_described_that_no_frame_has() -> None:
    assert set(shared_columns(ROOT)) <= {field.name for schema in SCHEMAS.values() for field in schema.columns}


@pytest.mark.parametrize("table", load_tables(ROOT), ids=lambda table: str(table.name))
def test_every_column_of_a_table_is_declared_and_explained(table: report.Table) -> None:
    frame = next((schema for schema in SCHEMAS.values() if table.frame in schema.files), None)
    added = {*(table.derive or {}), *(table.join or {}).get("columns", ())}
    known = {field.name for field in frame.columns} | added if frame else {column.name for column in table.columns}
    assert [column.name for column in table.columns if column.name not in known] == []
    assert [column.name for column in table.columns if not column.meaning] == []


# ---- who reads it -------------------------------------------------------------------------------------------------


PROSE = {"title", "caption", "beside", "place", "rule", "says", "meaning", "header"}
TEMPLATES = {"why", "inference"}
"""Keys of a claim whose text is prose but for {column}."""


def named(value: object, key: str = "") -> Iterator[str]:
    """Every word by which a YAML names a column: columns, expressions, {fields} of a template; not its prose."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from named(each, name)
    elif isinstance(value, list):
        for each in value:
            yield from named(each, key)
    elif isinstance(value, str) and (key in TEMPLATES or key == "statement"):
        yield from (word for field in re.findall(r"{(.*?)}", value) for word in WORD.findall(field))
    elif isinstance(value, str) and key not in PROSE:
        yield from WORD.findall(value)


def taken(function: ast.AST) -> Iterator[str]:
    """The strings and attributes by which a function takes a column: not keys of a dict, not where a column is set."""
    nodes = list(ast.walk(function))
    made = {id(key) for node in nodes if isinstance(node, ast.Dict) for key in node.keys}
    made |= {id(node.slice) for node in nodes if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in made:
            yield from [node.value] if WORD.fullmatch(node.value) else ()
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("row", "each"):
            yield node.attr


def taken_in(path: Path) -> set[str]:
    """What the functions of a file take. Lists of columns at the top of a file say what is made, and do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {word for function in functions for word in taken(function)}


def shown_by(path: Path) -> set[str]:
    """What a template of the page names."""
    inside = re.findall(r"{[{%](.*?)[%}]}", path.read_text(encoding="utf-8"), re.DOTALL)
    return {word for each in inside for word in WORD.findall(each)}


@pytest.fixture(scope="module")
def read() -> set[str]:
    """Every word by which a table, figure, claim, template, function or committed result can name a column."""
    yamls = [path for folder in ("table", "figure", "claim") for path in (ROOT / f"conf/{folder}").rglob("[!_]*.yaml")]
    found = {word for path in yamls for word in named(yaml.safe_load(path.read_text(encoding="utf-8")))}
    found |= {word for path in (ROOT / "src").rglob("*.py") for word in taken_in(path)}
    found |= {word for path in (ROOT / "src/pages/templates").glob("*.j2") for word in shown_by(path)}
    found |= {*metrics.ACCURACIES, *metrics.MEANS, *metrics.PICKS.values()}  # rows are made of each of these
    for path in (ROOT / "data/reference").glob("*.csv"):
        with path.open(encoding="utf-8") as file:
            found |= set(next(csv.reader(file)))
    return found


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_declared_column_has_a_reader(name: str, read: set[str]) -> None:
    sides = {f"{side}_{word}" for side in ("left", "right") for word in read}  # f"{side}_accuracy"
    unread = {field.name for field in SCHEMAS[name].columns} - read - sides
    assert unread == set()


# ---- what is made -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "file"), HERE)
def test_a_frame_that_is_here_is_what_is_declared(name: str, file: str) -> None:
    frame = read_frame(ROOT, file)
    assert differences(SCHEMAS[name], frame) == []
    assert list(frame.columns) == [field.name for field in SCHEMAS[name].columns]


def test_the_statistics_make_what_is_declared(published_frames: dict[str, pd.DataFrame]) -> None:
    assert [
        (name, each) for name, frame in published_frames.items() for each in differences(SCHEMAS[name], frame)
    ] == []


@pytest.fixture(scope="module")
def published_frames() -> dict[str, pd.DataFrame]:
    """Every frame of the statistics that the published scores alone give: no own run, no prepared task."""
    setting: Setting = replace(stats.read_setting(ROOT), items={})
    return stats.build(read_published(ROOT / stats.PUBLISHED_SCORES, setting.tasks), None, setting, "0" * 64)


def test_every_frame_of_the_statistics_is_declared(published_frames: dict[str, pd.DataFrame]) -> None:
    assert set(published_frames) <= set(SCHEMAS)


def test_a_frame_that_is_not_as_declared_is_named_with_its_column() -> None:
    good = pd.DataFrame({"claim": ["a"], "of": ["b"], "analyses": [9], "holds": [1], "median": [0.5],
                         "expected": [0.0], "p_joint": [0.25]})  # fmt: skip
    assert list(as_declared("joint", good[sorted(good)])) == list(good)
    for odd, said in (
        (good.assign(extra=1), "column extra is made and not declared"),
        (good.drop(columns="median"), "column median is declared and not made"),
        (good.assign(holds=0.5), "column holds is float64, not int"),
    ):
        with pytest.raises(ValueError, match=f"frame joint .*{said}"):
            as_declared("joint", odd)
    with pytest.raises(ValueError, match=r"conf/frame/nothing\.yaml"):
        as_declared("nothing", good)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["task", "tusk"], "tusk"),
        ([{"name": "task", "meening": "x"}], "meening"),
        ([{"name": "task", "dtype": "text"}], "text"),
    ],
)
def test_a_mistake_in_a_frame_is_named(tmp_path: Path, columns: list[object], message: str) -> None:
    folder = tmp_path / "conf/frame"
    folder.mkdir(parents=True)
    (folder / "_columns.yaml").write_text('task: {dtype: str, meaning: "A task."}')
    (folder / "mine.yaml").write_text(yaml.safe_dump({"row": "One task.", "files": ["a.csv"], "columns": columns}))
    with pytest.raises(UserError, match=message):
        load_schemas(tmp_path)


def test_the_list_of_columns_in_the_documents_is_current() -> None:
    text = (ROOT / report.STATISTICS).read_text(encoding="utf-8")
    assert text == report.with_columns(text, ROOT), "python -m src.report --columns"


def test_a_schema_is_a_page_to_read() -> None:
    assert all(isinstance(schema, Schema) and schema.row.endswith(".") for schema in SCHEMAS.values())
