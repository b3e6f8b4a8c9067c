"""A sample of what a release or a store holds, computed again: how many are wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from src.base.errors import UserError
from src.cell.file import Answers, fingerprint
from src.cell.finding import DIFFERS, IDENTICAL, NEAR_TIES, Finding
from src.cell.hashes import LOGPROB
from src.cell.released import Rebuilt
from src.engine.job import Completion, Engine, Likelihood, Request, Result


@dataclass(frozen=True)
class Sample:
    """Completions of a release, or records of a store, computed again.

    `wrong` counts those that differ outside near-ties. A completion of a release is also wrong if its prompt's
    log-likelihoods are. `near` counts those that differ at a near-tie.
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

    def finding(self, name: str = "sample", what: str = "completions generated again") -> Finding:
        """What the sample shows about all of them."""
        status = DIFFERS if self.wrong else NEAR_TIES if self.near else IDENTICAL
        share = f"with 95 % confidence less than {100 * self.bound:.1f} % of all are wrong (Clopper-Pearson)"
        note = (
            f"{self.m:,} of {self.population:,} {what}: {self.wrong:,} wrong, {self.near:,} differ at near-ties; "
            f"{'these are all' if self.m == self.population else share}"
        )
        return Finding(name, status, (note, *self.notes))


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
    where, then, now = f"{published.prompt.id}, seed {seed}", published.likelihood, fresh.likelihood
    status, note = same_scores(then, now) if then and now else (IDENTICAL, "")
    if status == IDENTICAL:
        status, note = same_completion(published.completions[seed], fresh.completions[seed])
    return status, f"{where}: {note}" if note else ""


def same_completion(before: Completion, after: Completion) -> tuple[str, str]:
    """(status, note) of two completions of one prompt with one seed. Their margins may differ."""
    margins = [each.near_tie for each in (before, after) if each.near_tie is not None]
    if (before.text, before.n_tokens, before.finish) == (after.text, after.n_tokens, after.finish):
        return IDENTICAL, ""
    if margins:
        return NEAR_TIES, f"margin {min(margins):.3g}"
    return DIFFERS, "another text" if before.text != after.text else "another number of tokens or another end"


def same_scores(before: Likelihood, after: Likelihood) -> tuple[str, str]:
    """(status, note) of the log-likelihoods of one prompt's continuations: the same where they are within LOGPROB."""
    import numpy as np

    same = before.n_tokens == after.n_tokens and len(before.logprob) == len(after.logprob)
    if same and np.allclose(after.logprob, before.logprob, LOGPROB, LOGPROB):
        return IDENTICAL, ""
    return DIFFERS, "log-likelihoods differ"
