"""The whole line on a tiny random LLaMA: run, store, MLflow, cells, scores. Its numbers stay in a temporary folder."""

import contextlib
import json
import random
import signal
import subprocess
import time
from dataclasses import asdict, replace

import pytest
from hydra import compose, initialize_config_dir

from src import collect, run
from src.base import conf, grid
from src.base.errors import UserError
from src.base.files import ROOT
from src.cell.file import Answers, digests, read_cell, write_cell
from src.engine.job import Completion
from src.lab.moved import own_folder
from src.question.examples import Example
from tests import warm
from tests.tiny import tiny

TASKS = ("analytic_entailment", "social_iqa")
N = 12


def made_up(task, n=N):
    """Exemplars and test items of our own, in the prepared form."""
    options = ("a cork", "a stone", "an anvil")
    shots = [Example(f"{task}/s{i}", f"s{i}", f"What floats, case {i}?", options, 0, "a cork", i) for i in range(5)]
    tests = [
        Example(f"{task}/{i}", f"g{i // 3}", f"What sinks, case {i}" + " or so" * (i % 4) + "?", options, i % 3,
                options[i % 3], None)
        for i in range(n)
    ]  # fmt: skip
    return "".join(json.dumps(asdict(e)) + "\n" for e in shots + tests)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a place with a space")
    tiny("llama", folder / "weights")
    (folder / "tasks").mkdir()
    for task in TASKS:
        (folder / "tasks" / f"{task}.jsonl").write_text(made_up(task))
    return folder


def words(place, *more, out=None):
    given = [
        "+model=llama_7b", f"model.path='{place / 'weights'}'", "model.tasks=null",
        "model.dtype=float32", "limit=6", "seeds=[2266]",
        f"data='{place / 'tasks'}'", f"store='{place / 'store'}'", f"tasks=[{','.join(TASKS)}]",
        "conditions=[closed_few,closed_adv_zero]", f"tracking.uri='sqlite:///{place / 'runs.db'}'",
        "tracking.experiment=a-test",
    ]  # fmt: skip
    return [*given, *more] + ([f"out='{place / out}'"] if out else [])


def execute(place, *more, out=None):
    grid.register()
    with initialize_config_dir(str(conf.CONF), version_base="1.3"):
        return run.execute(compose("config", overrides=words(place, *more, out=out)))


def cached_bytes(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def finished(place):
    assert execute(place, out="outputs/tiny") == 0
    return place


def test_every_cell_is_done_and_in_the_ledger(finished):
    ledger = json.loads((finished / "outputs/tiny/ledger.json").read_text())
    assert [(e["task"], e["condition"], e["status"]) for e in ledger] == [
        (task, condition, "done") for task in TASKS for condition in ("closed_few", "closed_adv_zero")
    ]


def test_a_cell_keeps_what_was_asked_and_said(finished):
    head, answers = read_cell(finished / "outputs/tiny/social_iqa__closed_few.jsonl")
    assert (len(answers), head.shots, head.prompt) == (6, 5, "closed")
    assert answers[0].prompt.prefix.count("The possible answers are") == 5
    assert all(len(a.likelihood.logprob) == 3 and set(a.completions) == {2266} for a in answers)


def test_collect_gives_a_row_per_cell_example_and_seed(finished):
    frame = collect.collect(finished / "outputs")
    assert len(frame) == 4 * 6
    assert not frame.duplicated(["fingerprint", "example_id", "seed"]).any()
    assert frame.loc[frame.prompt == "closed_adv", "bertscore_accuracy"].isna().all()
    assert frame.exact_match.isin([0.0, 1.0]).all()


def test_mlflow_holds_one_run_a_cell_under_one_parent_and_a_repeat_updates_it(finished):
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{finished / 'runs.db'}")
    experiment = client.get_experiment_by_name("a-test").experiment_id
    before = client.search_runs([experiment], "tags.kind = 'cell'")
    assert len(before) == 4
    assert execute(finished, out="outputs/tiny") == 0
    after = client.search_runs([experiment], "tags.kind = 'cell'")
    assert {r.info.run_id for r in after} == {r.info.run_id for r in before}
    parents = client.search_runs([experiment], "tags.kind = 'model'")
    assert {r.data.tags["mlflow.parentRunId"] for r in after} == {parents[0].info.run_id}
    one = after[0]
    assert {"exact_match", "edit_distance", "unparsed", "likelihood", "n"} <= set(one.data.metrics)
    assert {"fingerprint", "data_sha256", "git_commit", "git_dirty", "version_torch", "device"} <= set(one.data.tags)
    assert len(json.loads((own_folder(client, one) / "examples.json").read_text())["data"]) == 6


def test_a_finished_cell_is_rebuilt_without_weights(finished):
    first = cached_bytes(finished / "outputs/tiny")
    weights = finished / "weights/model.safetensors"
    kept = weights.read_bytes()
    from src.engine.local import LocalEngine

    loaded = []
    original = LocalEngine.run
    LocalEngine.run = lambda self, requests, among: loaded.extend(requests) or original(self, requests, among)
    try:
        assert execute(finished, out="outputs/tiny") == 0
    finally:
        LocalEngine.run = original
        weights.write_bytes(kept)
    assert loaded == []
    assert cached_bytes(finished / "outputs/tiny") == first


def test_a_larger_limit_contains_the_smaller_and_touches_no_other_output(finished):
    before = cached_bytes(finished / "outputs/tiny")
    assert execute(finished, "limit=9", out="outputs/larger") == 0
    assert cached_bytes(finished / "outputs/tiny") == before
    small = read_cell(finished / "outputs/tiny/social_iqa__closed_few.jsonl")[1]
    large = read_cell(finished / "outputs/larger/social_iqa__closed_few.jsonl")[1]
    assert large[: len(small)] == small


def test_prompts_alike_but_for_the_answer_each_get_their_own_budget(finished):
    """codenames shows no options, so an empty input leaves one prompt for all, with as many budgets as answers."""
    (finished / "tasks/codenames.jsonl").write_text(made_up("codenames"))
    asked = ("tasks=[codenames]", "conditions=[closed_zero_content_free]")
    assert execute(finished, *asked, out="outputs/content_free") == 0
    answers = read_cell(finished / "outputs/content_free/codenames__closed_zero_content_free.jsonl")[1]
    assert len({a.prompt.text for a in answers}) == 1
    assert len({a.prompt.answer for a in answers}) == 3


def test_one_failing_cell_does_not_stop_the_others(finished, capsys):
    (finished / "tasks/misconceptions.jsonl").write_text("not json\n")
    code = execute(finished, "tasks=[misconceptions,social_iqa]", "conditions=[closed_few]")
    said = capsys.readouterr().out
    assert code == 1
    assert "1 of 2 cells done" in said
    assert "misconceptions/closed_few" in said


def test_a_gap_is_reported_to_the_pipeline_only_where_params_say_so(finished):
    asked = ("tasks=[strategyqa,social_iqa]", "conditions=[closed_few]")
    assert execute(finished, *asked, "incomplete=fail", out="outputs/gap") == 1
    assert execute(finished, *asked, "incomplete=report", out="outputs/gap") == 0
    ledger = json.loads((finished / "outputs/gap/ledger.json").read_text())
    assert [e["status"] for e in ledger] == ["not_runnable", "done"]
    assert "dvc repro prepare" in ledger[0]["reason"]


def test_a_cell_that_was_edited_is_not_scored(finished, tmp_path):
    text = (finished / "outputs/tiny/social_iqa__closed_few.jsonl").read_text()
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/social_iqa__closed_few.jsonl").write_text(text.replace("sinks", "swims"))
    with pytest.raises(UserError, match="was edited"):
        collect.collect(tmp_path)


def test_a_dead_tracking_server_does_not_stop_the_run(finished):
    with pytest.warns(UserWarning, match="the run goes on without it"):
        assert execute(finished, "tracking.uri='http://127.0.0.1:9'", out="outputs/untracked") == 0
    assert len(list((finished / "outputs/untracked").glob("*.jsonl"))) == 4


# ---- killed ----


@pytest.fixture(scope="module")
def long(place, tmp_path_factory):
    """The words of a run that takes a while, and the bytes of its cells where nothing disturbs it."""
    folder = tmp_path_factory.mktemp("long")
    (folder / "tasks").mkdir()
    for task in TASKS:
        (folder / "tasks" / f"{task}.jsonl").write_text(made_up(task, 300))
    asked = ["limit=300", "token_budget=512", f"data='{folder / 'tasks'}'"]
    assert execute(place, *asked, f"store='{folder / 'store'}'", f"out='{folder / 'undisturbed'}'") == 0
    return asked, cached_bytes(folder / "undisturbed")


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_goes_on_where_it_was(place, long, tmp_path, kill):
    asked = [*long[0], f"store='{tmp_path / 'store'}'"]
    running = warm.started("src.run", *words(place, *asked), cwd=ROOT)
    for _ in range(6000):
        time.sleep(0.02)
        if sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()) > 20_000:
            break
    running.send_signal(kill)
    _, said = running.communicate(timeout=120)
    assert running.returncode != 0
    if kill == signal.SIGINT:
        assert "goes on from there" in said
        assert "Traceback" not in said
    kept = sum(len(p.read_bytes().splitlines()) for p in (tmp_path / "store").rglob("*") if p.is_file())
    assert kept > 0
    assert execute(place, *asked, out=f"{kill.name}/again") == 0
    assert cached_bytes(place / kill.name / "again") == long[1]


@pytest.mark.slow
def test_twenty_kills_at_random_moments_leave_what_an_undisturbed_run_leaves(place, long, tmp_path):
    """Seeded moments between the start and the last file. No record is stored twice: nothing was computed twice."""
    asked = [*long[0], f"store='{tmp_path / 'store'}'"]
    moments, died = random.Random(20), 0
    for _ in range(20):
        running = warm.started("src.run", *words(place, *asked, out="killed/again"), cwd=ROOT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(timeout=moments.uniform(0.5, 4))
        running.kill()
        died += running.wait() == -signal.SIGKILL
    assert died >= 10
    assert execute(place, *asked, out="killed/again") == 0
    keys = [line.split(b"\t")[1] for p in (tmp_path / "store").rglob("*.*") for line in p.read_bytes().splitlines()
            if line.count(b"\t") >= 2]  # fmt: skip
    assert len(keys) == len(set(keys)) > 1000
    again = cached_bytes(place / "killed/again")
    assert len(again) == 5
    assert again == long[1]  # to the byte: completions, log-likelihoods, ledger


# ---- a cell's file ----


def test_a_cell_with_every_kind_of_line_break_is_read_as_it_was_written(finished, tmp_path):
    head, answers = read_cell(finished / "outputs/tiny/social_iqa__closed_few.jsonl")
    said = Completion("one\u2028two\u0085three\r\nfour\x0bfive", 5, "eos")
    answers = [Answers(a.prompt, {2266: said}, a.likelihood) for a in answers]
    asked, completed = digests(answers)
    path = tmp_path / "cell.jsonl"
    write_cell(path, replace(head, prompts_sha256=asked, completions_sha256=completed), answers)
    assert read_cell(path)[1] == answers
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="not a whole cell"):
        read_cell(path)
