""""""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from src.base import conf
from src.base.errors import UserError
from src.base.files import whole
from src.base.schema import Model

if TYPE_CHECKING:
    import pandas as pd


NUMBERS = r"-?\d[\d.e-]*( -?\d[\d.e-]*)+$"  # several in a cell, as in reports/hashes/likelihoods.csv
INERT = re.compile(rf"^(?!{NUMBERS})[=+\-@\t\r]")
SCHEMAS: dict[str, type[Any]] = {"model": Model}


def read_yaml(path: Path) -> Any:
    """A YAML file as plain data. Raises UserError if it does not parse."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no valid YAML: {error}") from None


def read_frame(root: Path, source: str) -> pd.DataFrame:
    """A frame by path: *.parquet, *.csv, rows in a YAML (`file.yaml#key`), or a folder of YAMLs (`conf/x/*.yaml`).

    Raises UserError that names the DVC stage which makes the file, where it is missing.
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

    return pd.DataFrame(_members(Path(path).parent.name) if "*" in path else read_yaml(root / path)[key])


FRAMES: dict[str, Callable[[Path, str, str], Any]] = {
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".yaml": _read_rows,
}


@cache
def _members(group: str) -> list[dict[str, Any]]:
    """Every conf/<group>/*.yaml, composed and typed."""
    return [asdict(conf.load(group, name, SCHEMAS[group])) for name in conf.known(group)]


def inert(value: Any) -> Any:
    """A text that a spreadsheet would run as a formula gets an apostrophe in front; all else is untouched."""
    return f"'{value}" if isinstance(value, str) and INERT.match(value) else value


def write_csv(frame: pd.DataFrame, path: Path, digits: int = 6) -> None:
    """Whole or not at all, inert, with `digits` significant digits: six do not depend on the number of threads."""
    with whole(path) as part:
        part.write_text(csv_text(frame, digits), encoding="utf-8", newline="")


def csv_text(frame: pd.DataFrame, digits: int = 6) -> str:
    """What `write_csv` writes. Empty where a value is missing."""
    return str(frame.map(inert).to_csv(index=False, float_format=f"%.{digits}g", lineterminator="\n"))


def _maker(root: Path, path: str) -> str:
    """Which stage of dvc.yaml has `path` among its outs, as an instruction."""
    stages = (read_yaml(root / "dvc.yaml") or {}).get("stages", {}) if (root / "dvc.yaml").exists() else {}
    for name, stage in stages.items():
        outs = [next(iter(out)) if isinstance(out, Mapping) else out for out in stage.get("outs", ())]
        if any(path == out or path.startswith(f"{out.rstrip('/')}/") for out in outs):
            return f"Stage {name} makes it: dvc repro {name}"
    return "Stage stats makes it: dvc repro stats" if path.startswith("data/stats/") else "No stage makes it."
