"""Scaling by difficulty, on scores of three sizes whose answers are known by construction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from src.base.schema import Model
from src.statistics import difficulty
from src.statistics.difficulty import BINS, by_difficulty

SIZES = {"small": 1e8, "medium": 1e9, "large": 1e10}
MODELS = {name: Model(name=name, family="f", parameters=size, tuned=False) for name, size in SIZES.items()}


def scores(share: dict[str, list[float]], task: str = "t", **changes: Any) -> pd.DataFrame:
    """Two seeds of each model's examples: by model, the share of the right option of each example (two options)."""
    fixed = {"suite": "s", "condition": "closed_zero", "prompt": "closed", "shots": 0, "control": None} | changes
    return pd.DataFrame([
        {**fixed, "model": model, "task": task, "example_id": f"{task}/{i}", "seed": seed, "gold_share": p,
         "likelihood": float(p > 0.5), "brier": 2 * (1 - p) ** 2}
        for model, each in share.items() for i, p in enumerate(each) for seed in (1, 2)
    ])  # fmt: skip


def alike(*share: float) -> dict[str, list[float]]:
    """Three models that give each example the same share."""
    return {name: list(share) for name in SIZES}


def test_easy_examples_fall_and_hard_ones_rise_as_they_were_made_to() -> None:
    made = {
        "small": [0.1, 0.1, 0.45, 0.45, 0.95, 0.95],
        "medium": [0.2, 0.2, 0.5, 0.5, 0.9, 0.9],
        "large": [0.4, 0.4, 0.6, 0.6, 0.8, 0.8],
    }
    found = by_difficulty(scores(made), MODELS)
    mine = found[found["task"] == "t"]
    assert list(mine["model"]) == ["small", "medium", "large"] * 3
    assert (mine["n"] == 2).all()  # examples, never examples times seeds
    wide = mine.pivot(index="bin", columns="model", values="gold_share")[["small", "medium", "large"]]
    assert wide.loc["hard"].tolist() == pytest.approx([0.1, 0.2, 0.4])
    assert wide.loc["easy"].tolist() == pytest.approx([0.95, 0.9, 0.8])
    brier = mine.pivot(index="bin", columns="model", values="brier")
    assert brier.loc["hard", "large"] == pytest.approx(2 * 0.6**2)
    assert mine["log10_parameters"].tolist() == pytest.approx([8, 9, 10] * 3)
    accuracy = mine.pivot(index="bin", columns="model", values="likelihood")
    assert accuracy.loc["middle"].to_dict() == {"small": 0, "medium": 0, "large": 1}


def test_a_models_own_scores_do_not_decide_what_is_easy_for_it() -> None:
    """Pure noise: binned by all models, the easy bin of each would be better than its hard one."""
    rng = np.random.default_rng(7)
    found = by_difficulty(scores({name: list(rng.random(900)) for name in SIZES}), MODELS)
    wide = found[found["task"] == "t"].pivot(index="bin", columns="model", values="gold_share")
    assert (wide.loc["easy"] - wide.loc["hard"]).abs().max() < 0.07  # three standard errors of such a difference


def test_bins_over_all_tasks_are_made_within_each_task() -> None:
    two = pd.concat([scores(alike(0.7, 0.8, 0.9), "easy"), scores(alike(0.1, 0.2, 0.3), "hard")])
    found = by_difficulty(two, MODELS)
    pooled = found[(found["task"] == difficulty.ALL_TASKS) & (found["model"] == "small")].set_index("bin")
    assert pooled["gold_share"].to_dict() == pytest.approx({"hard": 0.4, "middle": 0.5, "easy": 0.6})
    assert (pooled["n"] == 2).all()


def test_equal_examples_share_a_bin() -> None:
    assert difficulty.bins_of(np.array([0.5] * 6)) == ["middle"] * 6
    assert difficulty.bins_of(np.array([0.3, 0.1, 0.2])) == ["easy", "hard", "middle"]
    assert set(difficulty.bins_of(np.linspace(0, 1, 4))) == set(BINS)
    noise = [0.1 + 0.2, 0.3, 0.9, 0.0]  # 0.30000000000000004 is 0.3
    assert len(set(difficulty.bins_of(np.array(noise))[:2])) == 1


@pytest.mark.parametrize("why", ["two sizes", "another family", "control", "unscored", "two examples", "tuned"])
def test_fewer_than_three_sizes_of_one_family_have_no_row(why: str) -> None:
    each = alike(0.1, 0.5, 0.9)
    given, models = scores(each), dict(MODELS)
    if why == "two sizes":
        models["medium"] = Model(name="medium", family="f", parameters=1e8)
    elif why == "another family":
        models["medium"] = Model(name="medium", family="g", parameters=1e9)
    elif why == "tuned":
        models["medium"] = Model(name="medium", family="f", parameters=1e9, tuned=True)
    elif why == "control":
        given = scores(each, control="shifts")
    elif why == "unscored":
        given = given.assign(gold_share=np.nan)
    else:
        given = scores(alike(0.1, 0.9))
    assert len(by_difficulty(given, models)) == 0


def test_only_examples_that_all_models_answered_count() -> None:
    given = scores(alike(0.1, 0.5, 0.9, 0.95))
    given = given[~((given["model"] == "large") & (given["example_id"] == "t/3"))]
    found = by_difficulty(given, MODELS)
    assert found[(found["task"] == "t") & (found["model"] == "small")]["n"].tolist() == [1, 1, 1]
