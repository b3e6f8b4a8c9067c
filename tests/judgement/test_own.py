"""The claims of suite pair on scores whose answers are known by construction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from src import stats
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.frames import load_schemas
from src.base.metrics import ACCURACIES, MEANS, PROBABILITIES
from src.judgement.audit import frames
from src.judgement.claims import OWN, load_claims
from src.judgement.own import OwnScores, overlap_frame
from src.statistics.floor import floors, guess_of, paired
from src.statistics.pairing import Pairing
from tests.judgement.conftest import NO_POOLED

pytestmark = pytest.mark.slow  # some two hundred cells each
BASE, TUNED = "gemma3_270m", "smollm2_135m_instruct"
TASKS = ("social_iqa", "logical_deduction", "strategyqa", "implicatures", "causal_judgment", "misconceptions")
CONDITIONS = ("closed_zero", "closed_few", "closed_adv_zero", "closed_adv_few")
N = 100


@dataclass(frozen=True)
class Asked:
    """One cell of the grid: who is asked what."""

    model: str
    task: str
    few: bool
    lettered: bool
    control: str | None


Right = Callable[[Asked, np.random.Generator], Any]
"""(a cell, a generator) -> (N,) of 0 or 1: which examples are right."""


def scores(right: Right, options: int = 2) -> pd.DataFrame:
    """scores.parquet of suite pair: every cell, and its twin with swapped inputs on the first half of the examples."""
    rows: list[dict[str, Any]] = []
    for model in (BASE, TUNED):
        for task in TASKS:
            for condition in CONDITIONS:
                for control in (None, "input_swapped"):
                    asked = Asked(model, task, "few" in condition, "adv" in condition, control)
                    draw = right(asked, np.random.default_rng(abs(hash(str(asked))) % 2**32))
                    rows += [_row(asked, condition, i, float(each), options) for i, each in enumerate(draw)]
    return pd.DataFrame(rows)


def _row(asked: Asked, condition: str, example: int, right: float, options: int) -> dict[str, Any]:
    name = condition if asked.control is None else f"{condition}_{asked.control}"
    return {
        "suite": "pair", "model": asked.model, "task": asked.task, "condition": name, "shots": 5 * asked.few,
        "prompt": "closed_adv" if asked.lettered else "closed", "control": asked.control, "variant": None,
        "fingerprint": f"{asked.model}/{asked.task}/{name}", "data_sha256": "d", "completions_sha256": "c",
        "weights": "w", "example_id": f"{asked.task}/{example:03}", "group": f"{asked.task}/{example:03}", "seed": 1,
        "n_options": options, "target": example % options, "unparsed": 0.0,
        **dict.fromkeys((*ACCURACIES, *MEANS, *PROBABILITIES), right),
        **dict.fromkeys(("picked", "bertscore_picked", "likelihood_picked"), (example + (1 - int(right))) % options),
    }  # fmt: skip


def judged(right: Right, options: int = 2) -> OwnScores:
    setting = replace(stats.read_setting(ROOT), items={}, alpha=0.05)
    columns = stats.columns_of(load_schemas(ROOT)["pair"])
    return OwnScores(stats.cell_scores(scores(right, options), setting, columns), setting)


def words(found: OwnScores) -> Mapping[tuple[str, str], Any]:
    """By claim and item, its row of the audit."""
    audit = frames(load_claims(ROOT, OWN), found, NO_POOLED)["audit"]
    return {(row["claim"].removeprefix("own/"), row["item"]): row for row in audit.to_dict("records")}


def at(share: float) -> Any:
    """Exactly that share of N right, in the order of the examples."""
    return np.arange(N) < round(share * N)


def spread(share: float, rng: np.random.Generator) -> Any:
    """Exactly that share of N right, in an order of chance."""
    return rng.permutation(at(share))


def test_a_model_far_above_chance_and_far_above_its_own_floor_is_above() -> None:
    found = words(judged(lambda asked, rng: spread(0.5 if asked.control else 0.95, rng)))
    assert {found["above", task]["word"] for task in TASKS} == {"supported"}
    assert found["any", ""]["word"] == "supported"


def test_a_model_below_chance_on_every_task_is_contradicted_and_silence_is_undetermined() -> None:
    low = words(judged(lambda asked, rng: spread(0.35 if not asked.lettered else 0.45, rng), options=2))
    assert {low["above", task]["word"] for task in TASKS} <= {"contradicted", "not comparable"}
    near = words(judged(lambda asked, rng: spread(0.54, rng)))
    assert {near["above", task]["word"] for task in TASKS} == {"undetermined"}
    assert near["above", TASKS[0]]["detectable"] > 0.55


def test_what_a_model_also_gets_right_under_another_input_does_not_support_it() -> None:
    """As many right without the question as with it: chance is beaten, and its own floor is not."""
    found = words(judged(lambda asked, rng: at(0.9)))
    assert {found["above", task]["word"] for task in TASKS} == {"depends"}
    assert {found["above", task]["turns_on"] for task in TASKS} == {"bar"}


def test_the_gain_of_exemplars_is_mirrored_where_the_models_change_places() -> None:
    def gains(model: str) -> Right:
        def right(asked: Asked, rng: np.random.Generator) -> Any:
            extra = 0.02 * TASKS.index(asked.task)
            return spread(0.6 + (0.25 + extra if asked.few and asked.model == model else 0), rng)

        return right

    one, other = (words(judged(gains(model))) for model in (BASE, TUNED))
    for prompt in ("closed", "closed_adv"):
        item = f"{BASE} against {TUNED}, {prompt}"
        assert one["gain", item]["value"] == pytest.approx(0.3)
        assert other["gain", item]["value"] == pytest.approx(-0.3)
    assert one["exemplars_base", ""]["word"] in ("supported", "depends")
    assert one["exemplars_tuned", ""]["word"] in ("contradicted", "depends")
    assert other["exemplars_base", ""]["word"] == one["exemplars_tuned", ""]["word"]


def test_a_gain_that_also_comes_under_other_inputs_is_no_gain_over_the_floor() -> None:
    """Exemplars teach the format: plain and swapped rise alike. The claim then turns on how skill is counted."""
    found = words(judged(lambda asked, rng: at((0.55 + 0.01 * TASKS.index(asked.task)) + 0.3 * asked.few)))
    assert found["exemplars_base", ""]["word"] == "depends"
    assert found["exemplars_base", ""]["turns_on"] == "metric"


def test_two_models_that_solve_the_same_tasks_agree_and_the_figure_shows_both_with_their_controls() -> None:
    solved = TASKS[:3]
    scored = judged(lambda asked, rng: spread(0.5 if asked.control else 0.95 if asked.task in solved else 0.4, rng))
    found = words(scored)
    assert {found["agree", task]["word"] for task in solved} == {"supported"}
    drawn = overlap_frame(scored)
    assert set(drawn["prompt"]) == {"closed", "closed_adv"}
    here = drawn[drawn["prompt"] == "closed"].set_index("task")
    assert (here["left_model"].iloc[0], here["right_model"].iloc[0]) == (TUNED, BASE)
    assert here["left_above"].to_dict() == {task: task in solved for task in TASKS}
    assert here["right_floor"].to_numpy() == pytest.approx(0.5)


def test_two_base_models_are_no_pair() -> None:
    found = judged(lambda asked, rng: at(0.5))
    twice = replace(found, cells=found.cells.assign(tuned=False))
    with pytest.raises(UserError, match=r"base models .*it is to hold one of each"):
        words(twice)


def test_the_floor_is_paired_by_example_and_both_tails_are_of_tangos_score_test() -> None:
    rng = np.random.default_rng(5)
    plain, swapped = rng.random(N) < 0.8, rng.random(N) < 0.6
    (row,) = (
        floors(scores(lambda asked, _: swapped if asked.control else plain))
        .query("model == @BASE and task == @TASKS[0] and condition == 'closed_zero' and metric == 'exact_match'")
        .to_dict("records")
    )
    assert (row["floor"], row["floor_plain"], row["floor_n"]) == (swapped.mean(), plain.mean(), N)
    b, c = (plain & ~swapped).sum(), (~plain & swapped).sum()
    assert row["p_floor"] == pytest.approx(scipy_stats.norm.sf((b - c) / np.sqrt(b + c)))  # McNemar's z
    assert row["p_floor_short"] == pytest.approx(scipy_stats.norm.cdf(Pairing(N, int(b), int(c)).score_z(0.05)))


@pytest.mark.parametrize(("n", "low"), [(32, 0.05), (500, 0.0)])
def test_the_same_answers_under_every_input_prove_less_the_fewer_they_are(n: int, low: float) -> None:
    """With 32 examples a gain of five points shows in none of them one time in five: that is no proof of none."""
    same = paired(np.zeros(n))
    above, short = scipy_stats.norm.sf(same.score_z(0.0)), scipy_stats.norm.cdf(same.score_z(0.05))
    assert above == 0.5
    assert low < short < max(0.2, low)
    assert (short < 0.05) == (n == 500)


def test_the_chance_of_each_example_is_kept_where_options_differ() -> None:
    assert list(guess_of("2:2 4:1")) == [0.5, 0.5, 0.25]
