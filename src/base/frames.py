"""Frames by path, for what shows the statistics (tables, figures, claims), and every csv file that is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from src.base import conf
from src.base.errors import UserError
from src.base.files import whole

if TYPE_CHECKING:
    import pandas as pd


NUMBERS = r"-?\d[\d.e-]*( -?\d[\d.e-]*)+$"
"""Several numbers in one cell, as in reports/hashes/likelihoods.csv. They are no formula."""
INERT = re.compile(rf"^(?!{NUMBERS})[=+\-@\t\r]")


def read_yaml(path: Path) -> Any:
    """A YAML file as plain data. Raises UserError if it does not parse."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no valid YAML: {error}") from None


def read_frame(root: Path, source: str) -> pd.DataFrame:
    """A frame by path: *.parquet, *.csv, rows in a YAML (`file.yaml#key`), or a group of conf/ (`conf/x/*.yaml`).

    Raises UserError where the file is missing. The message names the DVC stage that makes it.
    """
    path, _, key = source.partition("#")
    if "*" not in path and not (root / path).exists():
        raise UserError(f"{path} is missing. {_maker(root, path)}")
    frame: pd.DataFrame = FRAMES[Path(path).suffix](root, path, key)
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


def inert(value: Any) -> Any:
    """The value, with an apostrophe in front where it is a text that a spreadsheet would run as a formula."""
    return f"'{value}" if isinstance(value, str) and INERT.match(value) else value


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
