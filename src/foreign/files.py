"""Files of other programs, read whole or refused in our words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from src.base.errors import UserError


@contextmanager
def as_documented(path: Path, what: str) -> Iterator[None]:
    """Turns what a file of another layout raises into a UserError. `what`: the format and version that is known."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path}: {reason}. This reader knows {what}; another version may need another one") from None


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines. Raises UserError where it is empty or a line is no object."""
    rows = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                cut = "" if line.endswith(b"\n") else ": the file is cut short"
                raise UserError(f"{path}, line {number}: no JSON{cut}. Copy the file again") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: no JSON object, so these are no results of examples")
            rows.append(row)
    if not rows:
        raise UserError(f"{path} is empty. Copy it again")
    return rows


def first_row(path: Path) -> dict[str, Any]:
    """The object on the first line of a file; {} where there is none."""
    with path.open("rb") as file:
        line = file.readline()
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def document(path: Path) -> Any:
    """A JSON file. Raises UserError where it is missing or does not parse."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} is missing. Copy the whole folder of the run") from None
    except ValueError as error:
        raise UserError(f"{path} is no whole JSON file ({error}). Copy it again") from None


def number(value: Any) -> float | None:
    """A score as a number: bools and finite numbers are, anything else is not."""
    if isinstance(value, bool | int | float):
        return float(value) if value == value and abs(value) != float("inf") else None
    return None
