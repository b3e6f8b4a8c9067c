"""Frames by path: how they are read, what conf/frame declares of each, and every csv file that is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from src.base import conf
from src.base.errors import UserError, first_line
from src.base.files import ROOT, whole

if TYPE_CHECKING:
    import pandas as pd


NUMBERS = r"-?\d[\d.e-]*( -?\d[\d.e-]*)+$"
"""Several numbers in one cell, as in reports/hashes/likelihoods.csv. They are no formula."""
INERT = re.compile(rf"^(?!{NUMBERS})[=+\-@\t\r]")
SAFE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""PyYAML's safe loader, the one in C where it was built: ten times as fast."""


class Distinct(SAFE):  # type: ignore[misc]
    """The safe loader that refuses a key twice, of which PyYAML would take the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """A mapping. Raises YAMLError where a key is in it twice."""
        seen = set()
        for key, _ in node.value:
            name = key.value if isinstance(key.value, str) else None
            if name is not None and name != "<<" and name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"found duplicate key {name}", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")  # controls but tab and newline; lone surrogates


def read_yaml(path: Path) -> Any:
    """A YAML file as plain data. Raises UserError if it is missing or does not parse."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=Distinct)
    except FileNotFoundError:
        raise UserError(f"{path} is missing. It is part of the repository: git checkout {path}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path} is no valid YAML: {error}") from None


def read_frame(root: Path, source: str) -> pd.DataFrame:
    """A frame by path: *.parquet, *.csv, rows in a YAML (`file.yaml#key`), or a group of conf/ (`conf/x/*.yaml`).

    Raises UserError where the file is missing. The message names the DVC stage that makes it.
    """
    path, _, key = source.partition("#")
    if "*" not in path and not (root / path).exists():
        raise UserError(f"{path} is missing. {_maker(root, path)}")
    try:
        frame: pd.DataFrame = FRAMES[Path(path).suffix](root, path, key)
    except ValueError as error:  # pyarrow's and pandas' errors of a damaged file are among them
        reason = first_line(error).rstrip(".")
        raise UserError(f"{path} is damaged: {reason}. {_maker(root, path)}") from None
    return frame


def _read_parquet(root: Path, path: str, _key: str) -> pd.DataFrame:
    import pandas as pd

    return pd.read_parquet(root / path)


def _read_csv(root: Path, path: str, _key: str) -> pd.DataFrame:
    import pandas as pd

    return pd.read_csv(root / path)


def _read_rows(root: Path, path: str, key: str) -> pd.DataFrame:
    import pandas as pd

    if "*" in path:
        group = Path(path).parent.name
        return pd.DataFrame([asdict(member) for member in conf.members(group, conf.SCHEMAS[group]).values()])
    return pd.DataFrame(read_yaml(root / path)[key])


FRAMES: dict[str, Callable[[Path, str, str], Any]] = {
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".yaml": _read_rows,
}


@dataclass(frozen=True)
class Field:
    """A column of a frame, as conf/frame declares it."""

    name: str
    dtype: str  # a key of DTYPES; a value may always be missing
    meaning: str
    unit: str = ""
    header: str = ""  # how a table heads it; the name where empty
    format: str = "text"  # how a table prints it (src/pages/tables.py, FORMATS)


@dataclass(frozen=True)
class Schema:
    """conf/frame/<name>.yaml with what conf/frame/_columns.yaml says of its columns."""

    name: str
    row: str  # what one row is
    files: tuple[str, ...]
    columns: tuple[Field, ...]


def load_schemas(root: Path) -> dict[str, Schema]:
    """Every conf/frame/<name>.yaml, by name. Raises UserError that names the file and the column that is odd."""
    shared = shared_columns(root)
    return {path.stem: _schema(path, shared) for path in sorted((root / "conf/frame").glob("[!_]*.yaml"))}


def shared_columns(root: Path) -> dict[str, dict[str, Any]]:
    """conf/frame/_columns.yaml: by column, what is said of it where a frame says nothing else."""
    return dict(read_yaml(root / "conf/frame/_columns.yaml"))


def _schema(path: Path, shared: Mapping[str, Mapping[str, Any]]) -> Schema:
    given = read_yaml(path)
    try:
        columns = tuple(_field(path, each, shared) for each in given.pop("columns"))
        return Schema(name=path.stem, columns=columns, row=given.pop("row"), files=tuple(given.pop("files")), **given)
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: {error}. A frame has row, files and columns.") from None


def _field(path: Path, given: str | Mapping[str, Any], shared: Mapping[str, Mapping[str, Any]]) -> Field:
    entry = {"name": given} if isinstance(given, str) else given
    try:
        field = Field(**{**shared.get(entry["name"], {}), **entry})
    except TypeError as error:
        what = str(error).replace("Field.__init__()", f"column {entry['name']}")
        raise UserError(f"{path}: {what}. Say it there or in _columns.yaml.") from None
    if field.dtype not in DTYPES:
        raise UserError(f"{path}: column {field.name} has dtype {field.dtype!r}. Known: {', '.join(DTYPES)}.")
    return field


DTYPES: dict[str, Callable[[pd.Series], bool]] = {
    "str": lambda values: values.map(type).eq(str).all(),
    "bool": lambda values: values.isin([True, False]).all() and not _is_number(values),
    "int": lambda values: _is_number(values) and bool((values % 1 == 0).all()),
    "float": lambda values: _is_number(values),
}


def _is_number(values: pd.Series) -> bool:
    import pandas as pd

    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def differences(schema: Schema, frame: pd.DataFrame) -> list[str]:
    """What a frame has otherwise than its schema declares, a sentence each. A frame without rows has nothing to say."""
    if not len(frame):
        return []
    declared, made = [field.name for field in schema.columns], [str(name) for name in frame.columns]
    return [
        *(f"column {name} is made and not declared" for name in made if name not in declared),
        *(f"column {name} is declared and not made" for name in declared if name not in made),
        *(
            f"column {field.name} is {frame[field.name].dtype}, not {field.dtype}"
            for field in schema.columns
            if field.name in made and not _holds(field.dtype, frame[field.name].dropna())
        ),
    ]


def _holds(dtype: str, known: pd.Series) -> bool:
    return known.empty or bool(DTYPES[dtype](known))


def as_declared(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with its columns in the order of conf/frame/<name>.yaml; one without rows gets them all.

    Raises ValueError, which names frame and column, where the code makes other columns than are declared.
    """
    schemas = load_schemas(ROOT)
    if name not in schemas:
        raise ValueError(f"frame {name} is not declared: write conf/frame/{name}.yaml")
    found = differences(schemas[name], frame)
    if found:
        raise ValueError(f"frame {name} is not what conf/frame/{name}.yaml declares: {'; '.join(found)}")
    return frame.reindex(columns=[field.name for field in schemas[name].columns])


def column_list(root: Path) -> str:
    """The columns of all frames as a Markdown table: one line for each column, and each other sense that it has."""
    senses: dict[tuple[str, str, str], list[str]] = {}
    for schema in load_schemas(root).values():
        for field in schema.columns:
            senses.setdefault((field.name, field.unit, field.meaning), []).append(schema.name)
    lines = [f"| `{name}` | {', '.join(frames)} | {unit} | {meaning} |".replace("|  |", "| |")
             for (name, unit, meaning), frames in sorted(senses.items())]  # fmt: skip
    return "\n".join(["| column | frames | unit | meaning |", "| --- | --- | --- | --- |", *lines, ""])


def inert(value: Any) -> Any:
    """A text that a spreadsheet would run as a formula gets an apostrophe in front, and is printable. Others stay."""
    if not isinstance(value, str):
        return value
    return printable(f"'{value}" if INERT.match(value) else value)


def printable(text: str) -> str:
    r"""The text with each character that not every file can hold as its escape: \x00, \r, \ud800."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def write_csv(frame: pd.DataFrame, path: Path, digits: int = 6) -> None:
    """Writes a csv whole or not at all. No cell runs as a formula.

    `digits` are significant digits. The first six do not depend on the number of threads.
    """
    with whole(path) as part:
        part.write_text(csv_text(frame, digits), encoding="utf-8", newline="")


def csv_text(frame: pd.DataFrame, digits: int = 6) -> str:
    """The text that `write_csv` writes. A missing value is an empty cell."""
    return str(frame.map(inert).to_csv(index=False, float_format=f"%.{digits}g", lineterminator="\n"))


def _maker(root: Path, path: str) -> str:
    """How to make `path`: the stage of dvc.yaml that has it among its outs."""
    pipeline = root / "dvc.yaml"
    stages = (read_yaml(pipeline) or {}).get("stages", {}) if pipeline.exists() else {}
    for name, stage in stages.items():
        outs = [next(iter(out)) if isinstance(out, Mapping) else out for out in stage.get("outs", ())]
        if any(path == out or path.startswith(f"{out.rstrip('/')}/") for out in outs):
            return f"Stage {name} makes it: dvc repro {name}"
    return "Stage stats makes it: dvc repro stats" if path.startswith("data/stats/") else "No stage makes it."
