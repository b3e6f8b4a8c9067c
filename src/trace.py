"""What stands behind a number: `python -m src.trace 0.547`, or a fingerprint (4 to 12 hex digits).

Looks through reports/tables for the number as it is printed there or rounded to as many digits as asked, and names
table, row, cell, run, completions and data of each find.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from src.base.cli import command
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.frames import read_frame
from src.base.metrics import PUBLISHED
from src.cell.file import cell_files, read_header

TABLES, OUTPUTS = Path("reports/tables"), Path("data/outputs")
CELLS, SCORES = Path("data/stats/cells.parquet"), Path("data/published/scores.csv")
HASHES = ("fingerprint", "source", "model", "task", "condition", "data_sha256", "completions_sha256")
HASH = re.compile(r"[0-9a-f]{4,12}")
WHO = ("source", "suite", "model", "task", "prompt", "shots", "condition", "metric", "statement")


@dataclass(frozen=True)
class Found:
    """One cell of one table that shows what was asked for."""

    table: str
    line: int  # of the csv file; the header is line 1
    column: str
    row: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """Of the cell behind the number; "" where the row is made of several."""
        side = self.column.partition("_")[0]
        return self.row.get(f"{side}_fingerprint") or self.row.get("fingerprint") or ""


def matches(asked: str, shown: str) -> bool:
    """Whether a table's cell is what was asked for: equal as text, or as a number to the digits asked."""
    if shown == asked:
        return True
    decimals = len(asked.partition(".")[2])
    try:
        return "." in asked and f"{float(shown):.{decimals}f}" == f"{float(asked):.{decimals}f}"
    except ValueError:
        return False


def search(asked: str, tables: Path) -> Iterator[Found]:
    """Every cell of `tables`/*.csv that shows `asked`; a fingerprint is found by how it begins."""
    hashed = HASH.fullmatch(asked) is not None and not asked.isdigit()
    for path in sorted(tables.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            for line, row in enumerate(csv.DictReader(file), start=2):
                for column, shown in row.items():
                    prefix = hashed and column.endswith("fingerprint") and shown.startswith(asked)
                    if prefix or (not hashed and matches(asked, shown)):
                        yield Found(path.stem, line, column, row)


def described(found: Found, known: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The find in a few lines: where, what, and the hashes behind it."""
    row = found.row
    who = "  ".join(f"{name} {row[name]}" for name in WHO if row.get(name))
    lines = [f"{TABLES / found.table}.csv, line {found.line}, {found.column} = {row[found.column]}", f"  {who}"]
    cell = known.get(found.fingerprint, {})
    hashes = {name: row.get(name) or cell.get(name) for name in ("data_sha256", "completions_sha256")}
    if found.fingerprint:
        lines.append(f"  cell {found.fingerprint}; in MLflow: tags.fingerprint = '{found.fingerprint}'")
    lines += [f"  {name} {value}" for name, value in hashes.items() if value]
    return lines


def known_cells(root: Path) -> dict[str, dict[str, str]]:
    """fingerprint -> what is known of a cell: hashes from the statistics, where they are here; the file of its answers.

    A published cell's data is the file of published scores. Raises UserError for a file of answers that is damaged.
    """
    known: dict[str, dict[str, str]] = {}
    if (root / CELLS).exists():
        frame = read_frame(root, str(CELLS))[list(HASHES)].drop_duplicates("fingerprint").astype("string").fillna("")
        known = {row["fingerprint"]: dict(row) for row in frame.to_dict("records")}
    for path in cell_files(root / OUTPUTS):
        head = read_header(path)
        hashes = head.chosen(("data_sha256", "prompts_sha256", "completions_sha256"))
        known.setdefault(head.fingerprint, {}).update(hashes, file=str(path.relative_to(root)))
    return known


def main() -> None:
    """`python -m src.trace NUMBER|FINGERPRINT`. A user's mistake is one line on stderr and exit code 1."""
    parser = command("trace", __doc__, "0.547", "1f4ca44d19f2 --most 5")
    parser.add_argument("asked", metavar="NUMBER|FINGERPRINT", help="as printed, e.g. 0.547 or 1f4ca44d19f2")
    parser.add_argument("--most", type=int, default=20, help="finds shown (20)")
    given = parser.parse_args()
    try:
        report(given.asked, given.most, ROOT)
    except UserError as error:
        sys.exit(f"error: {error}")


def report(asked: str, most: int, root: Path) -> None:
    """Print every find, then the files of the cells behind them. Raises UserError where there is none."""
    if not (root / TABLES).is_dir():
        raise UserError(f"{TABLES} is missing. Make it: dvc repro report")
    finds = list(search(asked, root / TABLES))
    if not finds:
        raise UserError(f"No table shows {asked}. Ask as it is printed, with its digits (0.547), or by fingerprint.")
    known = known_cells(root)
    for found in finds[:most]:
        print("\n".join(described(found, known)))
    if len(finds) > most:
        print(f"... and {len(finds) - most} more: --most {len(finds)}")
    for fingerprint in dict.fromkeys(found.fingerprint for found in finds[:most]):
        cell = known.get(fingerprint, {})
        if "file" in cell:
            print(f"cell {fingerprint}: completions in {cell['file']}\n  prompts_sha256 {cell['prompts_sha256']}")
        elif cell.get("source") == PUBLISHED:
            print(f"cell {fingerprint}: {cell['condition']} of {cell['model']} on {cell['task']} in {SCORES}")


if __name__ == "__main__":
    main()
