"""The plan of a grid: what is done, what it takes, and the paper's own grid from its published cells."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from src import plan
from src.base import conf, grid
from src.base.files import ROOT
from src.base.schema import Compat, Model
from src.cell.file import Answers, Header, Recorded, digests, kept_path, write_cell
from src.engine.job import Completion
from src.lab import speed, tokens
from src.lab.speed import Rate, known_rate, timed, tracked_rate
from src.lab.tokens import by_characters, counted, counter, evaluated, examples_of, rendered
from src.question.examples import Example
from src.question.prompts import Prompt
from tests.tiny import tiny

PAPER = grid.composed_params(["suite=paper"])
TASK, CONDITIONS, TUNED = "social_iqa", ["closed_zero", "closed_few"], "gpt2_it"


@pytest.fixture(scope="module")
def whole():
    return {row.model: row for row in plan.plan(PAPER)}


def test_the_paper_suite_renders_its_plan(whole):
    assert len(whole) == 20
    assert whole["gpt2"].cells == whole["t5_large"].cells == 22 * 6
    assert whole["llama_30b"].cells == whole["falcon_40b"].cells == 4 * 6


def test_api_models_are_asked_once_and_local_ones_once_a_seed(whole):
    assert whole["davinci"].completions == whole["davinci"].prompts == whole["gpt2"].prompts
    assert whole["gpt2"].completions == 3 * whole["gpt2"].prompts


def test_a_retired_model_is_not_runnable_and_says_why(whole):
    assert whole["davinci"].not_runnable == whole["davinci"].cells
    assert "no longer served" in whole["davinci"].why


def test_memory_is_parameters_times_bytes_of_the_declared_dtype(whole):
    """GPT-J: 6.05e9 parameters in fp16; T5-large: 7.7e8 in fp32; Falcon-40B outgrows one GPU of 80 GB."""
    assert whole["gptj_6b"].memory_gb == pytest.approx(12.1)
    assert whole["t5_large"].memory_gb == pytest.approx(3.08)
    assert (whole["gptj_6b"].gpus, whole["falcon_40b"].gpus) == (1, 2)
    assert whole["davinci"].memory_gb is None


def test_the_examples_are_those_that_the_task_file_leaves():
    """70 examples less 5 exemplars: protocol.md, Grid; gsm8k's exemplars come from another file."""
    assert evaluated(conf.load_task("analytic_entailment"), None) == 65
    assert evaluated(conf.load_task("gsm8k"), None) == 1319


@pytest.mark.parametrize("words", [["suite=papr"], ["limt=3"], ["models=[gpt_2]"]])
def test_a_mistake_is_one_line(words):
    done = subprocess.run(
        [sys.executable, "-m", "src.plan", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_members_loaded_at_once_are_those_loaded_one_by_one():
    names = ["gpt2", "t5_small", "llama_7b"]
    assert conf.load_all("model", names, Model) == [conf.load("model", name, Model) for name in names]


def test_the_released_generations_are_reproduced_line_by_line():
    """protocol.md, Grid."""
    rows = plan.published()
    paper = [row for row in rows if row.part == "paper"]
    assert sum(row.generations for row in rows) == 4_343_466
    assert sum(row.runs for row in rows) == 5_055 - 3
    assert sum(row.generations for row in paper) == 4_105_792
    assert sum(row.without_open for row in paper) == 2_764_200
    others = {row.model: row.generations for row in rows if row.part == "model not in the paper"}
    assert others.pop("code") == 17_674
    assert others.pop("gpt_4") == 1_040
    assert sum(others.values()) == 155_088
    assert sum(row.generations for row in rows if row.part.startswith("international_phonetic")) == 63_872


def test_the_plan_of_the_paper_is_the_released_grid_but_for_the_known_counts():
    """gpt2: 960 of 1,440 of codenames were released, and one example less of
    strange_stories (116, protocol.md) and of commonsense_qa (1,220), in six conditions and three seeds.
    """
    rows = {row.model: row for row in plan.published() if row.part == "paper"}
    assert rows["llama_7b"].planned == rows["llama_7b"].generations
    assert rows["gpt2"].planned - rows["gpt2"].generations == (1440 - 960) + 6 * 3 + 6 * 3


# ---- a place of our own ------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A prepared task, a model in a folder, and nothing else."""
    options = ("a cork", "a stone", "an anvil")
    shots = [Example(f"{TASK}/s{i}", f"s{i}", f"What floats, case {i}?", options, 0, "a cork", i) for i in range(5)]
    rows = [Example(f"{TASK}/{i}", str(i), f"What sinks, case {i}?", options, 1, "a stone", None) for i in range(8)]
    (tmp_path / "tasks").mkdir()
    (tmp_path / f"tasks/{TASK}.jsonl").write_text("".join(json.dumps(asdict(row)) + "\n" for row in shots + rows))
    monkeypatch.setattr(tokens, "PREPARED", tmp_path / "tasks")
    monkeypatch.setattr(plan, "OUTPUTS", tmp_path / "outputs")
    monkeypatch.setattr(speed, "CALIBRATION", tmp_path / "calibration.json")
    for cached in (examples_of, known_rate):
        cached.cache_clear()
    yield tmp_path
    for cached in (examples_of, known_rate):
        cached.cache_clear()


def asked(place, limit=6, seeds=(2266,), **model):
    known = conf.load("model", TUNED, Model)
    for key, value in {"path": str(place / "weights"), "dtype": "float32", "source": None, **model}.items():
        setattr(known, key, value)
    given = {"tasks": [TASK], "conditions": CONDITIONS, "models": [], "seeds": list(seeds), "limit": limit}
    what = tokens.grid_of({**given, "encoder": "minilm"})
    return known, replace(what, models=(known,))


def run(place, *more):
    from hydra import compose, initialize_config_dir

    from src import run

    grid.register()
    words = [f"+model={TUNED}", f"model.path='{place / 'weights'}'", "model.dtype=float32", "limit=6", "seeds=[2266]"]
    words += [f"data='{place / 'tasks'}'", f"store='{place / 'store'}'", f"tasks=[{TASK}]", "encoder=minilm"]
    words += [f"conditions=[{','.join(CONDITIONS)}]", f"tracking.uri='sqlite:///{place / 'runs.db'}'"]
    with initialize_config_dir(str(conf.CONF), version_base="1.3"):
        return run.execute(compose("config", overrides=[*words, f"out='{place / 'outputs' / TUNED}'", *more]))


def status(place, **more):
    model, what = asked(place, **more)
    return [row.status for row in plan.cell_plans(what)[model.name]]


@pytest.mark.slow
def test_what_was_run_is_done_until_what_is_asked_changes(place):
    tiny("gpt2", place / "weights")
    assert status(place) == ["missing", "missing"]
    assert run(place) == 0
    assert status(place) == ["done", "done"]
    assert status(place, limit=7) == ["missing", "missing"]
    assert status(place, seeds=(2266, 105)) == ["missing", "missing"]
    (place / "outputs" / TUNED / f"{TASK}__closed_few.jsonl").unlink()
    assert status(place) == ["done", "missing"]
    shutil.rmtree(place / "weights")
    assert status(place) == ["done", "not_runnable"]
    rate = tracked_rate(place / "cells")
    assert rate.model == TUNED
    assert rate.tokens_per_s > 0


@pytest.mark.slow
def test_a_calibration_is_kept_and_scales_with_parameters(place):
    tiny("gpt2", place / "weights")
    model, what = asked(place)
    cells = [rendered(what, what.tasks[TASK], what.conditions[c]) for c in CONDITIONS]
    tokens, seconds = timed(model, cells, (2266,), 1.0)
    assert tokens > 0
    speed.CALIBRATION.write_text(json.dumps(asdict(Rate(model.name, 2e8, tokens / seconds, "measured"))))
    twice = Model(name="twice", parameters=4e8)
    assert speed.rate(twice) == pytest.approx(tokens / seconds / 2)


def test_tokens_are_exact_with_the_models_tokenizer_and_four_characters_without(place):
    tiny("gpt2", place / "weights")
    model, what = asked(place)
    cell = rendered(what, what.tasks[TASK], what.conditions["closed_few"])
    exact, sent = counted(cell, counter(model), 3)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place / "weights")
    assert exact.prefix == len(tokenizer(cell.prompts[0].prefix)["input_ids"])
    assert exact.prompt == sum(len(tokenizer(p.text)["input_ids"]) for p in cell.prompts)
    assert exact.completion == 3 * 6 * (8 + max(len(tokenizer(o)["input_ids"]) for o in cell.prompts[0].options))
    assert sent == 3 * (exact.prompt + 6 * exact.prefix)
    rough, _ = counted(cell, by_characters, 3)
    assert rough.prefix == len(cell.prompts[0].prefix) / 4


def test_a_task_that_is_not_prepared_is_not_runnable_and_counts_with_the_others_mean(place):
    model, what = asked(place, path=None, hub=None, api="a-model")
    both = {**what.tasks, "gsm8k": conf.load_task("gsm8k")}
    rows = {(r.task, r.condition): r for r in plan.cell_plans(replace(what, tasks=both))[model.name]}
    known, unknown = rows[TASK, "closed_few"], rows["gsm8k", "closed_few"]
    assert (known.status, unknown.status) == ("missing", "not_runnable")
    assert "gsm8k is not prepared" in unknown.why
    assert unknown.tokens.prompt == pytest.approx(known.tokens.prompt)  # both ask six examples


def test_an_api_costs_what_its_prices_say_and_nothing_is_guessed_without(place):
    model, what = asked(place, path=None, hub=None, api="a-model", usd_per_million_in=2.0, usd_per_million_out=8.0)
    rows = plan.cell_plans(what)[model.name]
    expected = (2 * sum(r.sent for r in rows) + 8 * sum(r.tokens.completion for r in rows)) / 1e6
    assert plan.summed(model, rows).usd == pytest.approx(expected)
    model.usd_per_million_out = None
    assert plan.price(plan.summed(model, rows)) == "price not set"


def kept(folder, name, model, **speed):
    """A kept cell of a model, computed at this speed."""
    answers = [Answers(Prompt("t/0", "g", "", "?", ("a",), (" a",), 0, "a"), {0: Completion("a", 1, "eos")}, None)]
    asked, completed = digests(answers)
    head = Header(
        fingerprint=name, suite="s", model=model, weights="w", task="t", condition="c", prompt="closed",
        lettered=False, shots=0, compat=Compat(name="fixed"), encoder="e", prompts_sha256=asked,
        completions_sha256=completed, data_sha256="", recorded=Recorded({}, speed) if speed else None,
    )  # fmt: skip
    write_cell(kept_path(folder, name), head, answers)


def test_the_rate_is_that_of_the_model_with_most_tokens_over_all_its_kept_cells(tmp_path):
    kept(tmp_path / "one", "a", "gpt2", tokens=100, wall_s=10.0)
    kept(tmp_path / "another", "b", "gpt2", tokens=300, wall_s=10.0)
    kept(tmp_path / "one", "c", "t5_small", tokens=399, wall_s=1.0)
    kept(tmp_path / "one", "d", "no_model_of_conf", tokens=1000, wall_s=1.0)
    rate = tracked_rate(tmp_path)
    assert (rate.model, rate.tokens_per_s) == ("gpt2", 20.0)


def test_without_a_cell_that_was_computed_there_is_no_rate(tmp_path):
    kept(tmp_path / "one", "a", "gpt2")
    (tmp_path / "one/damaged.jsonl").write_text("no cell\n")
    assert tracked_rate(tmp_path) is tracked_rate(tmp_path / "none") is None


def test_the_command_names_the_machine_hides_keys_and_writes_a_line_a_cell(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "src.plan", "--csv", str(tmp_path / "plan.csv")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "HF_TOKEN set, OPENAI_API_KEY" in done.stdout
    assert "hf_secret" not in done.stdout + done.stderr
    for what in ("versions", "processors", "disk", "stores", "hub", "keys", "git", "dvc"):
        assert f" {what} " in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"torch", "transformers", "mlflow"}
    given = grid.params()
    with (tmp_path / "plan.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(given["tasks"]) * len(given["conditions"])
