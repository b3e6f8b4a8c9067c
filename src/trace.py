"""What stands behind a number: `python -m src.trace 0.547`, or a fingerprint (4 to 12 hex digits).

The command searches reports/tables for the number as it is printed, or rounded to the same digits. For each place it
names the table, the row, the cell, the run, the completions and the data.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from src.base.cli import command, stage
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
class Place:
    """One place in one table that shows the number or fingerprint."""

    table: str
    line: int  # line of the csv file, where the header is line 1
    column: str
    row: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the cell behind the number. "" if the row is made from several cells."""
        side = self.column.partition("_")[0]
        return self.row.get(f"{side}_fingerprint") or self.row.get("fingerprint") or ""


def matches(query: str, shown: str) -> bool:
    """Whether a table shows the query: equal as text, or equal as a number rounded to the digits of the query."""
    if shown == query:
        return True
    decimals = len(query.partition(".")[2])
    try:
        return "." in query and f"{float(shown):.{decimals}f}" == f"{float(query):.{decimals}f}"
    except ValueError:
        return False


def search(query: str, tables: Path) -> Iterator[Place]:
    """Every place in `tables`/*.csv that shows the query. A fingerprint may be given by its first digits."""
    is_hash = HASH.fullmatch(query) is not None and not query.isdigit()
    for path in sorted(tables.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            for line, row in enumerate(csv.DictReader(file), start=2):
                for column, shown in row.items():
                    begins = is_hash and column.endswith("fingerprint") and shown.startswith(query)
                    if begins or (not is_hash and matches(query, shown)):
                        yield Place(path.stem, line, column, row)


def described(place: Place, known: Mapping[str, Mapping[str, str]]) -> list[str]:
    """A place in a few lines: the table, the row, and the hashes behind it."""
    row = place.row
    who = "  ".join(f"{name} {row[name]}" for name in WHO if row.get(name))
    lines = [f"{TABLES / place.table}.csv, line {place.line}, {place.column} = {row[place.column]}", f"  {who}"]
    cell = known.get(place.fingerprint, {})
    hashes = {name: row.get(name) or cell.get(name) for name in ("data_sha256", "completions_sha256")}
    if place.fingerprint:
        lines.append(f"  cell {place.fingerprint}; in MLflow: tags.fingerprint = '{place.fingerprint}'")
    lines += [f"  {name} {value}" for name, value in hashes.items() if value]
    return lines


def known_cells(root: Path) -> dict[str, dict[str, str]]:
    """fingerprint -> hashes of a cell, from the statistics if they are here, and the path of its file.

    Raises UserError if the file of a cell is damaged.
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
    parser.add_argument("query", metavar="NUMBER|FINGERPRINT", help="as printed, e.g. 0.547 or 1f4ca44d19f2")
    parser.add_argument("--most", type=int, default=20, help="places shown (20)")
    given = parser.parse_args()
    with stage("trace"):
        report(given.query, given.most, ROOT)


def report(query: str, most: int, root: Path) -> None:
    """Print every place, then the files of the cells behind them. Raises UserError if there is no place."""
    if not (root / TABLES).is_dir():
        raise UserError(f"{TABLES} is missing. Make it: dvc repro report")
    places = sorted(search(query, root / TABLES), key=lambda place: not place.fingerprint)  # what leads to a cell first
    if not places:
        raise UserError(f"No table shows {query}. Ask as it is printed, with its digits (0.547), or by fingerprint.")
    known = known_cells(root)
    for place in places[:most]:
        print("\n".join(described(place, known)))
    if len(places) > most:
        print(f"... and {len(places) - most} more: --most {len(places)}")
    for fingerprint in dict.fromkeys(place.fingerprint for place in places[:most]):
        cell = known.get(fingerprint, {})
        if "file" in cell:
            print(f"cell {fingerprint}: completions in {cell['file']}\n  prompts_sha256 {cell['prompts_sha256']}")
        elif cell.get("source") == PUBLISHED:
            print(f"cell {fingerprint}: {cell['condition']} of {cell['model']} on {cell['task']} in {SCORES}")


if __name__ == "__main__":
    main()
