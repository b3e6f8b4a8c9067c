"""Hashes of every completion, and the log-likelihoods: what another run is compared with. No text is in them."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.base.errors import UserError
from src.base.frames import write_csv
from src.cell.file import Answers, cell_files, read_cell

if TYPE_CHECKING:
    import pandas as pd

HASHES = Path("reports/hashes")
PLACE = ["model", "task", "condition"]
KEY = [*PLACE, "id", "seed"]
TEXTS = {"fingerprint": str, "sha256": str}  # some look like a number
DIGITS = 16  # of a text's sha256
LOGPROB = 1e-4  # log-likelihoods closer than this, absolute or relative, are the same: the rest is order of summation


def text_hash(text: str) -> str:
    """The first DIGITS hex digits of a text's sha256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]


def hashes(outputs: Path) -> dict[str, pd.DataFrame]:
    """completions (a row per completion) and likelihoods (a row per prompt) of the cells under `outputs`; no text."""
    import pandas as pd

    completed: list[dict[str, Any]] = []
    scored: list[dict[str, Any]] = []
    for path in cell_files(outputs):
        head, answers = read_cell(path)
        place = head.chosen(PLACE)
        completed += [{**place, "fingerprint": head.fingerprint, **row} for a in answers for row in _completions(a)]
        scored += [{**place, "id": a.prompt.id, "logprob": _logprob(a)} for a in answers if a.likelihood]
    return {
        "completions": pd.DataFrame(completed, columns=[*PLACE, "fingerprint", "id", "seed", "sha256", "near_tie"]),
        "likelihoods": pd.DataFrame(scored, columns=[*PLACE, "id", "logprob"]),
    }


def _completions(answers: Answers) -> Iterator[dict[str, Any]]:
    for seed, one in sorted(answers.completions.items()):
        yield {"id": answers.prompt.id, "seed": seed, "sha256": text_hash(one.text), "near_tie": one.near_tie}


def _logprob(answers: Answers) -> str:
    return " ".join(f"{value:.8g}" for value in answers.likelihood.logprob) if answers.likelihood else ""


def publish(outputs: Path, folder: Path) -> None:
    """Write `hashes` as csv files. Raises UserError where there is neither a cell nor a ledger that says why not.

    A log-likelihood that is already there and is the same (see LOGPROB) keeps its digits. So does the margin of a
    near-tie whose completion is the same. Another machine's order of summation is therefore no change.
    """
    import pandas as pd

    frames = hashes(outputs)
    if frames["completions"].empty and not list(outputs.glob("*/ledger.json")):
        raise UserError(f"{outputs} holds no cell. Make them: dvc repro infer")
    with contextlib.suppress(OSError, ValueError, KeyError):  # a missing or damaged file is written anew
        before = pd.read_csv(folder / "likelihoods.csv", dtype={"logprob": str}, keep_default_na=False)
        frames["likelihoods"] = settled(before, frames["likelihoods"])
    with contextlib.suppress(OSError, ValueError, KeyError):
        before = pd.read_csv(folder / "completions.csv", dtype=TEXTS)
        frames["completions"] = settled_margins(before, frames["completions"])
    for name, frame in frames.items():
        write_csv(frame, folder / f"{name}.csv")


def settled(before: pd.DataFrame, now: pd.DataFrame) -> pd.DataFrame:
    """The log-likelihoods `now`. One that is the same as `before` keeps its former digits."""
    same = log_likelihood_difference(before, now).query("same").drop(columns=["difference", "same"])
    both = now.merge(same.merge(before), on=[*PLACE, "id"], how="left", suffixes=("", "_before"))
    return now.assign(logprob=both["logprob_before"].fillna(both["logprob"]).to_numpy())


def settled_margins(before: pd.DataFrame, now: pd.DataFrame) -> pd.DataFrame:
    """The completions `now`. One that is the same, and near a tie both times, keeps the margin of then."""
    names = [*KEY, "fingerprint", "sha256"]
    then = now.merge(before[[*names, "near_tie"]], on=names, how="left", suffixes=("", "_before"))
    then = then["near_tie_before"].set_axis(now.index).astype(float)
    return now.assign(near_tie=now["near_tie"].astype(float).mask(now["near_tie"].notna() & then.notna(), then))


def log_likelihood_difference(published: pd.DataFrame, fresh: pd.DataFrame) -> pd.DataFrame:
    """A row per prompt that both have: PLACE, id, difference (largest over its options, nats), same (see LOGPROB)."""
    import numpy as np

    both = published.merge(fresh, on=[*PLACE, "id"], suffixes=("_published", ""))
    pairs = [
        [np.array(text.split(), dtype=float) for text in pair]
        for pair in both[["logprob_published", "logprob"]].itertuples(index=False)
    ]
    alike = [len(a) == len(b) for a, b in pairs]
    gaps = [float(np.abs(a - b).max()) if ok else np.inf for (a, b), ok in zip(pairs, alike, strict=True)]
    near = [ok and np.allclose(b, a, LOGPROB, LOGPROB) for (a, b), ok in zip(pairs, alike, strict=True)]
    return both[[*PLACE, "id"]].assign(difference=gaps, same=near)
