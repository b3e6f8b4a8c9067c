"""What DVC shows of the committed report, asked as a user asks it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from src import config


def dvc(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words], cwd=config.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_metrics_show_the_verdicts_and_the_own_accuracies() -> None:
    shown = json.loads(dvc("metrics", "show", "--json"))[""]["data"]["reports/metrics.json"]["data"]
    assert shown["published"]["table2"]["tasks"] == 22
    assert {"RQ1", "RQ2", "RQ3", "RQ4"} < set(shown["published"])


@pytest.mark.parametrize("plot", ["own_accuracy", "own_above_chance", "residuals", "reports/figures/figure1.png"])
def test_every_plot_of_dvc_yaml_has_its_data(plot: str) -> None:
    shown = json.loads(dvc("plots", "show", "--json", "--split"))
    assert not shown.get("errors")
    assert shown["data"][plot][0]
