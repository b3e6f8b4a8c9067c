"""Completions of a release generated again: how many are wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from src.base.errors import UserError
from src.cell.file import Answers, fingerprint
from src.cell.finding import DIFFERS, IDENTICAL, NEAR_TIES, Finding
from src.cell.hashes import LOGPROB
from src.cell.released import Rebuilt
from src.engine.job import Engine, Request, Result


@dataclass(frozen=True)
class Sample:
    """Completions generated again.

    `wrong` counts those that differ, outside near-ties, in their text or in their prompt's log-likelihoods.
    `near` counts those that differ at a near-tie.
    """

    m: int
    population: int
    wrong: int
    near: int
    notes: tuple[str, ...]

    @property
    def bound(self) -> float:
        """Upper 95 % confidence bound on the share of wrong ones, a fraction: one-sided Clopper-Pearson."""
        from scipy import stats as distributions

        test = distributions.binomtest(self.wrong, self.m, alternative="less")
        return float(test.proportion_ci(0.95, method="exact").high)

    def finding(self) -> Finding:
        """What the sample shows about the release."""
        status = DIFFERS if self.wrong else NEAR_TIES if self.near else IDENTICAL
        note = (
            f"{self.m} of {self.population:,} completions generated again: {self.wrong} wrong, {self.near} differ at "
            f"near-ties; with 95 % confidence less than {100 * self.bound:.1f} % of all are wrong (Clopper-Pearson)"
        )
        return Finding("sample", status, (note, *self.notes))


def regenerated(cell: Rebuilt, engine: Engine, chosen: Mapping[int, tuple[int, ...]]) -> Iterator[tuple[str, str]]:
    """(status, note) for each chosen completion. `chosen` holds seeds by the position of the prompt in the cell.

    Raises UserError where the fingerprint shows other weights or settings than the release's.
    """
    head = cell.head
    settings = (cell.run, cell.cell, engine.describe(), head.prompts_sha256, head.data_sha256)
    if fingerprint(*settings) != head.fingerprint:
        raise UserError(
            f"{cell.name}: these are not the weights or the settings of the release (fingerprint). Weights in a "
            "folder: model.path=/that/folder; settings: conf and params.yaml of the release's commit"
        )
    chosen_answers = [(cell.answers[n], seeds) for n, seeds in chosen.items()]
    requests = [Request(a.prompt, seeds, a.likelihood is not None) for a, seeds in chosen_answers]
    results = {result.prompt_id: result for batch in engine.run(requests) for result in batch}
    for answers, seeds in chosen_answers:
        for seed in seeds:
            yield compared(answers, results[answers.prompt.id], seed)


def compared(published: Answers, fresh: Result, seed: int) -> tuple[str, str]:
    """(status, note) of one completion beside the one generated again; log-likelihoods of its prompt count too."""
    import numpy as np

    where, before, after = f"{published.prompt.id}, seed {seed}", published.completions[seed], fresh.completions[seed]
    margins = [c.near_tie for c in (before, after) if c.near_tie is not None]
    then, now = published.likelihood, fresh.likelihood
    if then and now and not np.allclose(now.logprob, then.logprob, LOGPROB, LOGPROB):
        return DIFFERS, f"{where}: log-likelihoods differ"
    if before.text == after.text:
        return IDENTICAL, ""
    return (NEAR_TIES, f"{where}: margin {min(margins):.3g}") if margins else (DIFFERS, f"{where}: another text")
