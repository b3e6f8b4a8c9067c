"""All finished cells -> one tidy table, a row per (cell, example, variant, seed). A DVC stage: `python -m src.collect`.

`control` is null in the plain conditions; `variant` is null where a cell asks each example once.

Scoring happens here and not only while running: mending a rule costs CPU seconds, never a model.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.base import grid
from src.base.cli import command, stage, suite_line
from src.base.errors import UserError
from src.base.files import whole
from src.base.frames import as_declared
from src.cell import file
from src.cell.file import Answers, Header, cell_files, likelihoods_known, load_encoder, read_cell, read_header
from src.cell.ledger import check_ledgers
from src.question import prompts
from src.question.controls import CONTENT_FREE
from src.question.prompts import Prompt
from src.scoring.likelihood import pick, share

if TYPE_CHECKING:
    import pandas as pd


OUTPUTS = Path("data/outputs")
SCORES = Path("data/scores.parquet")
KEPT = (
    "suite", "model", "task", "prompt", "condition", "shots", "fingerprint", "data_sha256", "completions_sha256",
    "weights", "encoder",
)  # fmt: skip


SHARED = ("suite", "model", "weights", "task", "prompt", "shots", "data_sha256")
"""What a plain cell has in common with its content-free twin."""


def rows(path: Path, twin: Path | None = None) -> list[dict[str, Any]]:
    """The scored rows of one cell's file, without dataset text. twin: the file of its content-free twin."""
    head, answers = read_cell(path)
    shared = {**head.chosen(KEPT), "compat": head.compat.name}
    prior = prior_corrected(answers, read_cell(twin)[1]) if twin and head.plain else {}
    scored_rows = []
    for score in file.score(head, answers, _encoder):
        name, variant = prompts.example_id(score.example_id)
        beside = {"control": head.control, "variant": variant, "likelihood_prior": prior.get(score.example_id)}
        scored_rows.append({**shared, **asdict(score), "example_id": name, **beside})
    return scored_rows


_encoder = functools.cache(load_encoder)


def twins(heads: Mapping[Path, Header]) -> dict[Path, Path]:
    """Each cell's content-free twin, where it was run: the same model, task, prompt format and shots."""
    keys = {path: tuple(head.chosen(SHARED).values()) for path, head in heads.items()}
    free = {keys[path]: path for path, head in heads.items() if head.control == CONTENT_FREE}
    return {path: free[key] for path, key in keys.items() if key in free}


def prior_corrected(answers: Sequence[Answers], content_free: Sequence[Answers]) -> dict[str, float]:
    """Credit 0-1 by example id, by log p minus log p of the same option after an empty input. A t-way tie gives 1/t.

    {} where the content-free cell lacks an example, or either cell a log-likelihood. An example whose options differ
    there is left out.
    """
    prior = {a.prompt.id: a for a in content_free}
    if any(a.prompt.id not in prior for a in answers) or not all(map(likelihoods_known, (answers, content_free))):
        return {}
    credit = {}
    for a in answers:
        prompt, alone = a.prompt, prior[a.prompt.id]
        if a.likelihood and alone.likelihood and prompt.target is not None and _alike(prompt, alone.prompt):
            gain = [p - q for p, q in zip(a.likelihood.logprob, alone.likelihood.logprob, strict=True)]
            picked = pick(gain, a.likelihood.n_tokens, prompt.options, "plain")
            credit[prompt.id] = share(picked, prompt.target)
    return credit


def _alike(prompt: Prompt, other: Prompt) -> bool:
    return (prompt.prefix, prompt.continuations) == (other.prefix, other.continuations)


def collect(outputs: Path) -> pd.DataFrame:
    """Every cell under `outputs`, ordered by model, task and condition; missing values are null.

    Raises UserError where there is no cell at all, or one that is not what its header and ledger say.
    """
    import pandas as pd

    paths = cell_files(outputs)
    if not paths and not list(outputs.glob("*/ledger.json")):
        raise UserError(f"{outputs} holds no cell. Make them: dvc repro infer")
    heads = {path: read_header(path) for path in paths}
    check_ledgers(heads)
    twin = twins(heads)
    frame = pd.DataFrame([row for path in paths for row in rows(path, twin.get(path))])
    return frame.convert_dtypes() if len(frame) else frame


def main() -> None:
    """`python -m src.collect [OUTPUTS] [SCORES]`."""
    parser = command("collect", __doc__, "", "data/laptop data/laptop/scores.parquet")
    parser.add_argument("outputs", nargs="?", type=Path, default=OUTPUTS, help="folder of cells (data/outputs)")
    parser.add_argument("scores", nargs="?", type=Path, default=SCORES, help="table to write (data/scores.parquet)")
    given = parser.parse_args()
    with stage("collect", here=True):
        print(suite_line(grid.params()), flush=True)
        frame = collect(given.outputs)
        with whole(given.scores) as part:
            as_declared("scores", frame).to_parquet(part, index=False)
        print(f"{given.scores}: {len(frame)} scores of {frame.fingerprint.nunique() if len(frame) else 0} cells")


if __name__ == "__main__":
    main()
