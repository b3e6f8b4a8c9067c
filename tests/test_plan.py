"""The plan of a grid needs neither data nor weights."""

import subprocess
import sys

import pytest

from src import config, plan


def test_the_paper_suite_renders_its_plan():
    rows = {row.model: row for row in plan.plan(config.composed_params(["suite=paper"]))}
    assert len(rows) == 20
    assert rows["gpt2"].cells == rows["t5_large"].cells == 22 * 6
    assert rows["llama_30b"].cells == rows["falcon_40b"].cells == 4 * 6


def test_api_models_are_asked_once_and_local_ones_once_a_seed():
    rows = {row.model: row for row in plan.plan(config.composed_params(["suite=paper", "limit=10"]))}
    assert rows["davinci"].completions == rows["davinci"].prompts == 22 * 6 * 10
    assert rows["gpt2"].completions == 3 * rows["gpt2"].prompts


def test_the_examples_are_those_that_the_task_file_leaves():
    """70 examples less 5 exemplars: protocol.md, Grid; gsm8k's exemplars come from another file."""
    assert plan.evaluated(config.load_task("analytic_entailment"), None) == 65
    assert plan.evaluated(config.load_task("gsm8k"), None) == 1319


@pytest.mark.parametrize("words", [["suite=papr"], ["limt=3"], ["models=[gpt_2]"]])
def test_a_mistake_is_one_line(words):
    done = subprocess.run(
        [sys.executable, "-m", "src.plan", *words], cwd=config.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
