"""All finished cells -> one tidy table, a row per (cell, example, seed). A DVC stage: `python -m src.collect`.

Scoring happens here and not only while running: mending a rule costs CPU seconds, never a model.
"""

from __future__ import annotations

import argparse
import functools
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src import cells
from src.config import UserError

if TYPE_CHECKING:
    import pandas as pd

OUTPUTS = Path("data/outputs")
SCORES = Path("data/scores.parquet")
KEPT = (
    "suite", "model", "task", "prompt", "condition", "shots", "fingerprint", "data_sha256", "completions_sha256",
    "weights", "encoder",
)  # fmt: skip


def rows(path: Path) -> list[dict[str, Any]]:
    """The scored rows of one cell's file; no dataset text in them."""
    head, answers = cells.read(path)
    bert = None if head["lettered"] else _encoder(head["encoder"])
    kept = {"source_kind": "own", **{key: head[key] for key in KEPT}, "compat": head["compat"]["name"]}
    return [{**kept, **asdict(score)} for score in cells.score(head, answers, bert)]


_encoder = functools.cache(cells.load_encoder)


def collect(outputs: Path) -> pd.DataFrame:
    """Every cell under `outputs`, ordered by model, task and condition; missing values are null.

    Raises UserError where there is no cell at all.
    """
    import pandas as pd

    paths = sorted(outputs.glob("*/*.jsonl"))
    if not paths and not list(outputs.glob("*/ledger.json")):
        raise UserError(f"{outputs} holds no cell. Make them: dvc repro infer")
    frame = pd.DataFrame([row for path in paths for row in rows(path)])
    return frame.convert_dtypes() if len(frame) else frame


def main() -> None:
    """`python -m src.collect [OUTPUTS] [SCORES]`."""
    parser = argparse.ArgumentParser(prog="python -m src.collect", description=__doc__)
    parser.add_argument("outputs", nargs="?", type=Path, default=OUTPUTS, help="folder of cells (data/outputs)")
    parser.add_argument("scores", nargs="?", type=Path, default=SCORES, help="table to write (data/scores.parquet)")
    given = parser.parse_args()
    try:
        frame = collect(given.outputs)
    except UserError as error:
        sys.exit(f"error: {error}")
    part = given.scores.with_suffix(".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(part, index=False)
    part.replace(given.scores)
    print(f"{given.scores}: {len(frame)} scores of {frame.fingerprint.nunique() if len(frame) else 0} cells")


if __name__ == "__main__":
    main()
