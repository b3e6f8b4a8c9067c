"""Tasks for other programs: the prompts are ours, byte for byte, and so are the scores; FOLDER stays out of git."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src import external, harness
from src.base import conf
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.grid import composed_params
from src.base.schema import Compat, Condition, Generation, Task
from src.engine.job import Likelihood
from src.foreign.tasks import Cell, Scoring, inspect
from src.question import prompts
from src.question.examples import Example, load
from src.question.prompts import Prompt
from src.scoring import match
from src.scoring.likelihood import likelihood_scores
from tests import scratch
from tests.test_external import prepare, program
from tests.tiny import tiny

TASK, CANARY = "social_iqa", "canary: this is\nno data"
WORDS = (f"tasks=[{TASK}]",)
CONTROLS = tuple(composed_params(["suite=controls"])["conditions"])
ODD = (
    "{{ 7 }} {% if x %}", "7", "a\u2028b\x85c", "ends in a full stop. ", "say \"no\" & <b>'so'</b>", "$match ${tie}",
    "Ünïcode ☃ \U0001f600", "back\\slash \\n", "[1, 2]", " two  blanks ",
)  # fmt: skip
"""Texts that a program may take for its own language, for a number, or for the end of a line."""


def riddles() -> list[Example]:
    """Five exemplars and ten items, in the odd texts."""
    items = []
    for i, text in enumerate((*ODD, *ODD[:5])):
        options = (f"{text} one.", "two", f"three {i}")
        number = i - len(ODD) if i >= len(ODD) else None
        items.append(
            Example(f"{TASK}/{i}", f"{TASK}/{i}", f"Riddle {i}: {text}", options, i % 3, options[i % 3], number)
        )
    return items


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with one prepared task, and its source."""
    place = tmp_path / "project"
    prepare(place, TASK, riddles())
    source = place / f"data/raw/bigbench/{TASK}/task.json"
    source.parent.mkdir(parents=True)
    source.write_text(json.dumps({"canary": CANARY, "examples": []}))
    return place


def scoring_of(folder: Path, name: str = "scoring") -> ModuleType:
    """The Python file of a folder, loaded as the harness loads it: before it is in sys.modules."""
    spec = importlib.util.spec_from_file_location(f"{folder}/{name}", folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Asked = dict[tuple[str, str], list[Prompt]]


def ours(tasks: Sequence[str], conditions: Sequence[str], root: Path, limit: int | None = None) -> Asked:
    """What this project asks, by (task, condition)."""
    known = conf.load_all("condition", conditions, Condition)
    out = {}
    for task in map(conf.with_exemplar_options, conf.load_all("task", tasks, Task)):
        exemplars, tests, _ = load(task.name, root / "data/tasks")
        out |= {(task.name, c.name): prompts.ask(tests, exemplars, task, c, limit) for c in known}
    return out


def shown(asked: Asked) -> dict[tuple[str, str], list[tuple[Any, ...]]]:
    return {
        cell: [(p.id, p.prefix + p.text, p.continuations, p.target) for p in prompts] for cell, prompts in asked.items()
    }


def written(folder: Path) -> dict[tuple[str, str], list[tuple[Any, ...]]]:
    """What the items of a folder hold, read by its own code."""
    scoring = scoring_of(folder)
    cells = {}
    for path in (folder / "items").iterdir():
        rows = scoring.items_of(path.stem)
        cells[tuple(path.stem.split("__"))] = [
            (r["id"], r["prompt"], tuple(r["continuations"]), r["target"]) for r in rows
        ]
    return cells


def test_the_items_hold_our_prompts_byte_for_byte_controls_included(root: Path, tmp_path: Path) -> None:
    done = harness.write(
        "lm_eval", tmp_path / "out", [*WORDS, f"conditions=[{','.join(CONTROLS)}]", "limit=null"], root
    )
    asked = ours([TASK], CONTROLS, root)
    assert written(tmp_path / "out") == shown(asked)
    assert (done.cells, done.items) == (len(CONTROLS), sum(map(len, asked.values())))


def there() -> list[str]:
    """The paper's tasks that are prepared here."""
    names = composed_params(["suite=paper"])["tasks"]
    found = [name for name in names if (ROOT / f"data/tasks/{name}.jsonl").exists()]
    return found or pytest.skip("no task is prepared here: dvc repro prepare")


def test_each_prepared_task_of_the_paper_is_written_as_it_is_asked(tmp_path: Path) -> None:
    tasks, conditions = there(), ("closed_zero", "closed_few", "closed_adv_zero", "closed_adv_few")
    words = [f"tasks=[{','.join(tasks)}]", f"conditions=[{','.join(conditions)}]", "limit=40"]
    harness.write("lm_eval", tmp_path / "out", words)
    assert written(tmp_path / "out") == shown(ours(tasks, conditions, ROOT, 40))


def test_git_ignores_the_folder_wherever_it_lies(root: Path, tmp_path: Path) -> None:
    scratch.run(tmp_path, "git", "init", "-q")
    for name in harness.PROGRAMS:
        harness.write(name, tmp_path / f"deep/{name}", WORDS, root)
    assert "deep" not in scratch.run(tmp_path, "git", "status", "--porcelain", "-uall")


def test_the_canary_of_the_source_stays_with_its_items(root: Path, tmp_path: Path) -> None:
    harness.write("lm_eval", tmp_path / "out", WORDS, root)
    items, tasks = list((tmp_path / "out/items").iterdir()), list((tmp_path / "out").glob(f"*{TASK}__*.yaml"))
    assert all(json.loads(path.read_text().split("\n")[0])["canary"] == CANARY for path in items)
    assert all(path.read_text().startswith("# canary: this is no data\n") for path in tasks)
    assert len(tasks) == 2 * len(items) > 0
    (root / f"data/raw/bigbench/{TASK}/task.json").unlink()
    with pytest.raises(UserError, match=r"task\.json is missing.*dvc repro -f fetch@bigbench"):
        harness.write("lm_eval", tmp_path / "other", WORDS, root)
    assert not (tmp_path / "other").exists()


def test_a_folder_is_replaced_where_all_in_it_is_ours_and_refused_else(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    harness.write("lm_eval", folder, [*WORDS, "conditions=[closed_zero]"], root)
    harness.write("inspect", folder, [*WORDS, "conditions=[closed_few]"], root)
    assert {path.name for path in (folder / "items").iterdir()} == {f"{TASK}__closed_few.jsonl"}
    assert not list(folder.glob("*.yaml"))
    (folder / "logs").mkdir()
    with pytest.raises(UserError, match="holds logs, which this command did not write"):
        harness.write("inspect", folder, WORDS, root)
    with pytest.raises(UserError, match="holds data"):
        harness.write("inspect", root, WORDS, root)
    assert (folder / "logs").is_dir()


def cells(*names: str) -> list[Cell]:
    prompt = prompt_of(("yes", "no"), 0)
    return [Cell(name, Condition(name="closed_zero"), [prompt], {}, {}) for name in names]


def test_names_that_python_does_not_tell_apart_are_refused_and_others_are_tasks_of_inspect() -> None:
    scoring = Scoring("", 0, conf.load("compat", "fixed", Compat), Generation(), 1)
    (text,) = inspect(cells("a-b", "a_c"), scoring).values()
    defined = {node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    assert {"a_b__closed_zero", "a_c__closed_zero"} <= defined
    assert "asked('a-b__closed_zero'" in text
    with pytest.raises(UserError, match="a-b__closed_zero and another cell differ in - and _ alone"):
        inspect(cells("a-b", "a_b"), scoring)


def test_a_task_that_is_not_prepared_is_named_or_refused(root: Path, tmp_path: Path) -> None:
    words = [f"tasks=[{TASK},strategyqa]", "conditions=[closed_zero]"]
    done = harness.write("inspect", tmp_path / "out", [*words, "incomplete=report"], root)
    assert (done.cells, done.missing) == (1, ("strategyqa",))
    with pytest.raises(UserError, match="the task strategyqa is not prepared"):
        harness.write("inspect", tmp_path / "other", [*words, "incomplete=fail"], root)
    assert not (tmp_path / "other").exists()


def test_a_damaged_task_is_refused_and_never_left_out(root: Path, tmp_path: Path) -> None:
    (root / f"data/tasks/{TASK}.jsonl").write_text('{"id": ')
    with pytest.raises(UserError, match="is not whole"):
        harness.write("inspect", tmp_path / "out", [*WORDS, "incomplete=report"], root)


# ---- scores --------------------------------------------------------------------------------------------------------


@cache
def folder_of_scores(place: Path) -> ModuleType:
    """The scoring of a folder, which is the same in every folder."""
    prepare(place, TASK, riddles())
    source = place / f"data/raw/bigbench/{TASK}/task.json"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text("{}")
    harness.write("lm_eval", place / "out", WORDS, place)
    return scoring_of(place / "out")


@pytest.fixture(scope="module")
def scoring(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return folder_of_scores(tmp_path_factory.mktemp("scores"))


def prompt_of(options: Sequence[str], target: int) -> Prompt:
    return Prompt("t/0", "g", "", "?", tuple(options), tuple(options), target, options[target].removesuffix("."))


def item_of(prompt: Prompt, lettered: bool) -> dict[str, Any]:
    return {"options": list(prompt.options), "target": prompt.target, "answer": prompt.answer, "lettered": lettered}


WORDS_OF = st.sampled_from(["yes", "Yes.", "no", "10", "100", "a cat", "a cat is", "(b)", ""])
OPTIONS = st.lists(WORDS_OF.filter(bool), min_size=2, max_size=5)
PARTS = st.lists(st.one_of(WORDS_OF, st.sampled_from(["(a)", '"', ".", " ", ",", "\n", "(c)", "no way"])), max_size=6)


@given(options=OPTIONS, parts=PARTS, lettered=st.booleans(), at=st.integers(0, 4))
def test_a_completion_is_judged_as_here(
    scoring: ModuleType, options: list[str], parts: list[str], lettered: bool, at: int
) -> None:
    prompt, text = prompt_of(options, at % len(options)), "".join(parts)
    rules = match.Rules(lettered, conf.load("compat", "fixed", Compat))
    here = match.exact_match(text, prompt, rules)
    parsed, right = scoring.judged(text, item_of(prompt, lettered))
    assert (parsed.picked, parsed.reason, right) == (here.picked, here.reason, match.right(here.picked, prompt, rules))
    assert scoring.answer(item_of(prompt, lettered), [text]) == {"exact_match": float(right)}


@given(options=OPTIONS, lettered=st.booleans(), at=st.integers(0, 4), data=st.data())
def test_log_likelihoods_are_judged_as_here_ties_included(
    scoring: ModuleType, options: list[str], lettered: bool, at: int, data: st.DataObject
) -> None:
    prompt = prompt_of(options, at % len(options))
    logs = [data.draw(st.sampled_from([-1.0, -2.0, -4.0, -8.0, -2.0000001])) for _ in options]
    here = likelihood_scores(prompt, Likelihood(tuple(logs), (1,) * len(logs)), lettered)
    there = scoring.likelihood(item_of(prompt, lettered), [(log, False) for log in logs])
    assert there == {"acc": here["likelihood_plain"], "acc_norm": here["likelihood"]}


# ---- real programs -------------------------------------------------------------------------------------------------

RECORD_LM_EVAL = """
import json, sys
from pathlib import Path
from lm_eval.api.model import LM
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager


class Recorder(LM):
    def __init__(self):
        super().__init__()
        self.sent = []

    def loglikelihood(self, requests):
        self.sent += [["likelihood", r.task_name, r.doc["id"], *r.args] for r in requests]
        return [(-1.0, False) for _ in requests]

    def generate_until(self, requests):
        self.sent += [["answer", r.task_name, r.doc["id"], *r.args] for r in requests]
        return [' (a)' for _ in requests]

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError


model, folder = Recorder(), sys.argv[1]
manager = TaskManager(include_path=folder, include_defaults=False)
found = simple_evaluate(model=model, tasks=["emergence_audit"], task_manager=manager, bootstrap_iters=0)
Path(sys.argv[2]).write_text(json.dumps({"sent": model.sent, "results": found["results"]}, default=str))
"""

RECORD_INSPECT = """
import json, sys
from pathlib import Path
from inspect_ai import eval
from inspect_ai.model import ModelAPI, ModelOutput, modelapi

sent = []


class Recorder(ModelAPI):
    async def generate(self, input, tools, tool_choice, config):
        sent.append([[[m.role, m.content] for m in input], config.max_tokens, config.temperature, config.top_k])
        return ModelOutput.from_content(self.model_name, " (b)")

    async def count_text_tokens(self, text):
        return len(text)


@modelapi(name="recorder")
def recorder():
    return Recorder


logs = eval("emergence_audit.py", model="recorder/model", display="none", log_dir="logs", max_tasks=1)
found = {log.eval.task: [log.status, log.results.scores[0].metrics["accuracy"].value] for log in logs}
Path(sys.argv[1]).write_text(json.dumps({"sent": sent, "results": found}))
"""


def recorded(python: Path, script: str, folder: Path, *words: str) -> dict[str, Any]:
    """What a program sent to a model that writes down what it gets."""
    out = folder.parent / "sent.json"
    quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder.parent / "cache"), "HOME": str(folder.parent)}
    done = subprocess.run(
        [python, "-c", script, *words, str(out)], cwd=folder, capture_output=True, text=True, check=False,
        env={**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, **quiet},
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    return json.loads(out.read_text())


def python_of(variable: str, package: str, beside: Path | None = None) -> Path:
    """The interpreter of the environment that has a program."""
    return Path(program(variable, package, beside)).with_name("python")


ALL = [f"conditions=[{','.join(CONTROLS)}]"]
Grid = Callable[[Path], tuple[list[str], Asked, dict[str, Any]]]


def of_the_paper(root: Path) -> tuple[list[str], Asked, dict[str, Any]]:
    """Every prepared task of the paper, controls included."""
    return [f"tasks=[{','.join(there())}]", *ALL, "limit=2"], ours(there(), CONTROLS, ROOT, 2), {}


def of_odd_texts(root: Path) -> tuple[list[str], Asked, dict[str, Any]]:
    """Texts that a program may take for its own."""
    return [*WORDS, *ALL, "limit=null"], ours([TASK], CONTROLS, root), {"root": root}


@pytest.mark.slow
@pytest.mark.parametrize("grid", [of_the_paper, of_odd_texts])
def test_the_harness_sends_a_model_our_bytes(grid: Grid, root: Path, tmp_path: Path) -> None:
    python = python_of("LM_EVAL", "lm-eval", ROOT / ".venv/bench/bin/lm_eval")
    words, asked, where = grid(root)
    harness.write("lm_eval", tmp_path / "out", words, **where)
    found = recorded(python, RECORD_LM_EVAL, tmp_path / "out", str(tmp_path / "out"))
    scored, drawn = set[tuple[str, ...]](), set[tuple[str, ...]]()
    for way, name, item, prompt, more in found["sent"]:
        cell = name.removeprefix(f"emergence_audit_{way}_")
        if way == "likelihood":
            scored.add((cell, item, prompt, more))
        else:
            drawn.add((cell, item, prompt))
            assert {more[key] for key in ("temperature", "top_k")} == {0.01, 20}
    each = [("__".join(cell), p) for cell, prompts in asked.items() for p in prompts]
    assert drawn == {(cell, p.id, p.prefix + p.text) for cell, p in each}
    assert scored == {(cell, p.id, p.prefix + p.text, c) for cell, p in each for c in p.continuations}
    results = found["results"]
    for cell in asked:  # a policy of positions, and equal log-likelihoods: both score chance where options are shifted
        if cell[1].endswith("_shifts"):
            chance = sum(1 / len(p.options) for p in asked[cell]) / len(asked[cell])
            assert results[f"emergence_audit_answer_{'__'.join(cell)}"]["exact_match,none"] == pytest.approx(chance)
            assert results[f"emergence_audit_likelihood_{'__'.join(cell)}"]["acc,none"] == pytest.approx(chance)


@pytest.mark.slow
@pytest.mark.parametrize("grid", [of_the_paper, of_odd_texts])
def test_inspect_sends_a_model_our_bytes_as_one_message(grid: Grid, root: Path, tmp_path: Path) -> None:
    python = python_of("INSPECT", "inspect-ai")
    words, asked, where = grid(root)
    kept = [name for name in CONTROLS if "adv" in name] if grid is of_odd_texts else ["closed_zero", "closed_adv_few"]
    asked = {cell: prompts for cell, prompts in asked.items() if cell[1] in kept}
    words = [word if not word.startswith("conditions=") else f"conditions=[{','.join(kept)}]" for word in words]
    harness.write("inspect", tmp_path / "out", words, **where)
    found = recorded(python, RECORD_INSPECT, tmp_path / "out")
    assert {status for status, _ in found["results"].values()} == {"success"}
    texts = sorted(p.prefix + p.text for prompts in asked.values() for p in prompts for _ in range(3))
    assert sorted(message for ((_, message),), *_ in found["sent"]) == texts
    assert {(role, t, k) for ((role, _),), _, t, k in found["sent"]} == {("user", 0.01, 20)}
    assert set(found["results"]) == {"__".join(cell) for cell in asked}


@pytest.mark.slow
def test_a_run_of_the_harness_is_scored_as_here_and_comes_back(root: Path, tmp_path: Path) -> None:
    """A random checkpoint: its log-likelihoods under our rules give the harness's numbers, and its log is imported."""
    lm_eval = program("LM_EVAL", "lm-eval", ROOT / ".venv/bench/bin/lm_eval")
    harness.write("lm_eval", tmp_path / "out", [*WORDS, "conditions=[closed_few,closed_adv_zero]", "limit=null"], root)
    done = subprocess.run(
        [lm_eval, "--model", "hf", "--model_args", f"pretrained={tiny('llama', tmp_path / 'weights')},dtype=float32",
         "--device", "cpu", "--tasks", "emergence_audit_likelihood", "--include_path", tmp_path / "out",
         "--output_path", tmp_path / "logs", "--log_samples"],
        capture_output=True, text=True, check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for (task, condition), asked in ours([TASK], ["closed_few", "closed_adv_zero"], root).items():
        rows = {row["doc"]["id"]: row for row in samples(tmp_path / "logs", f"likelihood_{task}__{condition}")}
        for prompt in asked:
            row = rows[prompt.id]
            sent = [row["arguments"][f"gen_args_{i}"] for i in range(len(prompt.options))]
            assert [(s["arg_0"], s["arg_1"]) for s in sent] == [
                (prompt.prefix + prompt.text, c) for c in prompt.continuations
            ]
            logs = tuple(float(log) for log, _ in row["filtered_resps"])
            here = likelihood_scores(prompt, Likelihood(logs, (1,) * len(logs)), condition.startswith("closed_adv"))
            assert (row["acc"], row["acc_norm"]) == (here["likelihood_plain"], here["likelihood"])
    counts = external.bring_in(tmp_path / "logs", external.parser().parse_args([str(tmp_path / "logs")]), root)[
        1
    ].counts
    assert {sum(each.values()) for each in counts.values()} == {len(ODD)}


def samples(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    (path,) = folder.rglob(f"samples_emergence_audit_{name}_*.jsonl")
    yield from (json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line)
