"""What DVC shows, reruns and keeps, asked as a user asks it. docs/reruns.md is checked line by line."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir

from src import prepare, run
from src.base import conf, grid
from src.base.files import ROOT
from src.cell.store import Store
from tests import scratch
from tests.test_pipeline import made_up
from tests.tiny import tiny

ROWS = re.findall(r"^\| (.+?) \| ((?:`\S+` ?)+) \|", (ROOT / "docs/reruns.md").read_text(), re.MULTILINE)
TABLE = {change: re.findall("`(.+?)`", stages) for change, stages in ROWS}


def dvc(*words: str, folder: Path = ROOT, **variables: str) -> str:
    return scratch.run(folder, "python", "-m", "dvc", *words, **variables)


# ---- What it shows of the committed report


def test_metrics_show_the_verdicts_and_the_own_accuracies() -> None:
    shown = json.loads(dvc("metrics", "show", "--json"))[""]["data"]["reports/metrics.json"]["data"]
    assert shown["published"]["table2"]["tasks"] == 22
    assert {"RQ1", "RQ2", "RQ3", "RQ4"} < set(shown["questions"])
    assert sum(sum(words.values()) for words in shown["questions"].values()) == sum(
        shown["audit"]["inferences"].values()
    )
    (own,) = shown["own"].values()
    assert 0 < own["closed_few"]["accuracy"] < 1


@pytest.mark.parametrize("plot", ["own_accuracy", "own_above_chance", "residuals", "reports/figures/figure1.png"])
def test_every_plot_of_dvc_yaml_has_its_data(plot: str) -> None:
    shown = json.loads(dvc("plots", "show", "--json", "--split"))
    assert not shown.get("errors")
    assert shown["data"][plot][0]


# ---- What runs again


def asked(folder: Path, **changes: Any) -> None:
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}, sort_keys=False))


def edited(name: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text, f"{name} does not say {old!r} any more"
        (folder / name).write_text(text.replace(old, new))

    return edit


def added(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text((folder / name).read_text() + "# changed\n")


TUNED, BASE = "conf/model/smollm2_135m_instruct.yaml", "conf/model/gpt2.yaml"
CHANGES: dict[str, Callable[[Path], None]] = {
    "the wording of a prompt format (`conf/condition/prompt/`)": edited(
        "conf/condition/prompt/closed.yaml", "The possible answers are", "You may choose from"
    ),
    "a task's wording or exemplars (`conf/task/`)": edited("conf/task/social_iqa.yaml", "[1797, 1230", "[1230, 1797"),
    "`limit` raised or lowered": lambda folder: asked(folder, limit=8),
    "`seeds` added or removed": lambda folder: asked(folder, seeds=[2266]),
    "`conditions`": lambda folder: asked(folder, conditions=["closed_zero"]),
    "`tasks`": lambda folder: asked(folder, tasks=["social_iqa"]),
    "a model added to `models`": lambda folder: asked(folder, models=["smollm2_135m_instruct", "gpt2"]),
    "a model's own YAML (`conf/model/`)": added(TUNED),
    "another model's YAML": added(BASE),
    "`encoder`": lambda folder: asked(folder, encoder="roberta_large"),
    "an encoder's YAML (`conf/bertscore/`)": edited("conf/bertscore/minilm.yaml", "num_layers: ", "num_layers: 1"),
    "a scorer (`src/scoring/match.py`)": added("src/scoring/match.py"),
    "`alpha`": lambda folder: asked(folder, alpha=0.01),
    "a table or figure (`conf/table/`, `conf/figure/`)": added("conf/table/seeds.yaml"),
    "a claim (`conf/claim/`)": added("conf/claim/rq1_any.yaml"),
    "a rule of a claim (`src/judgement/word.py`)": added("src/judgement/word.py"),
    "a statistic (`src/statistics/tests.py`)": added("src/statistics/tests.py"),
    "the engine's code (`src/engine/`)": added("src/engine/decoder.py"),
    "a pinned source (`conf/source/rhyming.yaml`)": added("conf/source/rhyming.yaml"),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scratch.clone(tmp_path_factory.mktemp("a copy"))


def changed(folder: Path) -> set[tuple[str, str]]:
    """(stage, input) that `dvc status` calls modified or new; what was never made here does not count."""
    from dvc.repo import Repo

    return {
        (stage.rsplit("dvc.yaml:", 1)[-1], name)
        for stage, entries in Repo(str(folder)).status().items()
        for entry in entries
        for name, how in entry.get("changed deps", {}).items()
        if {"modified", "new"} & set(how.values() if isinstance(how, dict) else [how])
    }


@pytest.fixture(scope="module")
def before(copy: Path) -> set[tuple[str, str]]:
    """What is out of date already, where one works on the project: nothing in a commit."""
    return changed(copy)


def test_the_table_of_reruns_holds_every_change_that_is_tried() -> None:
    assert set(TABLE) == set(CHANGES)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_reruns_the_stages_that_the_table_names(copy: Path, before: set[tuple[str, str]], change: str) -> None:
    CHANGES[change](copy)
    try:
        after = changed(copy)
    finally:
        scratch.run(copy, "git", "checkout", "-q", ".")
    assert {stage for stage, _ in after - before} <= set(TABLE[change]) <= {stage for stage, _ in after}


def test_fewer_tasks_asked_leave_every_fetched_one_prepared() -> None:
    """A published score is judged against its task's chance, whether or not an own model is asked that task."""
    given = grid.composed_params(["suite=pilot"])
    assert prepare.to_prepare({**given, "tasks": ["social_iqa"]}) == given["tasks"]
    assert prepare.to_prepare({**given, "tasks": ["gsm8k"]}) == sorted([*given["tasks"], "gsm8k"])


# ---- What the example store saves


@pytest.fixture(scope="module")
def gained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., int]:
    """How many records a run of one cell (6 examples, one seed) adds to a store that earlier runs filled."""
    place = tmp_path_factory.mktemp("store")
    tiny("llama", place / "weights")
    (place / "social_iqa.jsonl").write_text(made_up("social_iqa"))
    given = [
        "+model=llama_7b", f"model.path='{place / 'weights'}'", "model.dtype=float32", "task=social_iqa",
        "condition=closed_adv_zero", f"data='{place}'", f"store='{place / 'store'}'", "limit=6", "seeds=[2266]",
        f"tracking.uri='sqlite:///{place / 'runs.db'}'", "incomplete=fail", f"out='{place / 'out'}'",
    ]  # fmt: skip

    def records(*words: str) -> int:
        before = len(Store(place / "store"))
        grid.register()
        with initialize_config_dir(str(conf.CONF), version_base="1.3"):
            assert run.execute(compose("config", overrides=[*given, *words])) == 0
        return len(Store(place / "store")) - before

    assert records() == 6 * 2  # a completion and the options' log-likelihoods each
    return records


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "records"),
    [
        (["limit=4"], 0),
        (["limit=9"], 3 * 2),
        (["seeds=[2266,105]"], 6),
        (["model.licence=none"], 0),
        (["++condition.template='Please: {input}{gap}{choices}. Answer:'"], 6 * 2),
    ],
)
def test_a_run_computes_what_the_store_lacks(gained: Callable[..., int], words: list[str], records: int) -> None:
    assert gained(*words) == records
    assert gained(*words) == 0


# ---- An experiment from beginning to end


@pytest.mark.slow
def test_an_experiment_answers_what_was_asked_what_changed_and_beside_what(tmp_path: Path) -> None:
    """--temp runs where a queue runs: away from the folder, led back to its store by STORE_DIR."""
    folder = scratch.with_outs(scratch.clone(tmp_path / "project"))
    before = (folder / "reports/metrics.json").read_text()
    settings = ("suite=pilot", "limit=2", "tasks=[social_iqa]", "conditions=[closed_few]")
    store = {"STORE_DIR": str(folder / "data/store"), "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"}
    given = [word for each in settings for word in ("-S", each)]
    dvc("exp", "run", "--temp", "-n", "small", *given, folder=folder, **store)

    assert (folder / "reports/metrics.json").read_text() == before
    assert len(Store(folder / "data/store")) > 0
    assert (folder / "mlflow.db").exists()

    asked = json.loads(dvc("params", "diff", "HEAD", "small", "--json", folder=folder))["params.yaml"]
    assert set(asked) == {"limit", "tasks", "conditions"}
    assert asked["limit"] == {"old": 16, "new": 2, "diff": -14}
    moved = json.loads(dvc("metrics", "diff", "HEAD", "small", "--json", folder=folder))["reports/metrics.json"]
    assert moved["own.smollm2_135m_instruct.cells"] == {"old": 80, "new": 1, "diff": -79}
    assert not [key for key in moved if key.startswith(("published.", "audit."))]

    shown = list(csv.DictReader(io.StringIO(dvc("exp", "show", "--csv", "--hide-workspace", folder=folder))))
    (row,) = [each for each in shown if each["Experiment"] == "small"]
    assert (row["suite"], row["limit"], row["own.smollm2_135m_instruct.closed_few.tasks"]) == ("pilot", "2", "1")
    plots = json.loads(dvc("plots", "diff", "HEAD", "small", "--json", "--split", folder=folder))
    assert plots["data"]["own_accuracy"][0]["revisions"] == ["HEAD", "small"]
