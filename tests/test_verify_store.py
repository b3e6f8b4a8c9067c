"""Is what the example store holds what the model says? Records planted in it, and what is told of them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume
from hypothesis import given as over
from hypothesis import strategies as st

from src import run, verify
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.grid import composed_run
from src.base.schema import Run
from src.cell import stored
from src.cell.finding import DIFFERS, EXIT, IDENTICAL, NEAR_TIES, Finding
from src.cell.ledger import DONE
from src.cell.store import Record, Store
from src.engine import start
from src.engine.job import Completion, Likelihood
from src.question import examples, prompts
from tests.test_pipeline import made_up
from tests.tiny import tiny

TASK, CONDITIONS, SEEDS, LIMIT = "social_iqa", ("closed_zero", "closed_adv_few"), (2266, 105), 4
EVERY = len(CONDITIONS) * LIMIT * (len(SEEDS) + 1)  # completions, and the log-likelihoods of each prompt


def words(place: Path, *more: str, model: str = "gpt2") -> list[str]:
    return [
        f"+model={model}", f"model.path='{place / 'weights'}'", "model.tasks=null", "model.dtype=float32",
        f"data='{place / 'tasks'}'", f"tasks=[{TASK}]", f"conditions=[{','.join(CONDITIONS)}]",
        f"seeds=[{','.join(map(str, SEEDS))}]", f"limit={LIMIT}", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a finished run of a tiny model."""
    root = tmp_path_factory.mktemp("a place")
    tiny("gpt2", root / "weights")
    (root / "tasks").mkdir()
    (root / f"tasks/{TASK}.jsonl").write_text(made_up(TASK))
    assert {e.status for e in verify.anew(composed_run(words(root)), root)} == {DONE}
    return root


@pytest.fixture
def store(place: Path, tmp_path: Path) -> Store:
    """A copy of its records, to be tampered with."""
    made = Store(tmp_path / "store")
    whole = Store(place / "store")
    made.put({key: record for key in whole._records if (record := whole.get(key))})
    made.close()
    return made


def key_of(asked: Run, condition: str, n: int, seed: int | None) -> tuple[str, str]:
    """(key, prompt id) of the completion of prompt n of a cell; seed None: of its log-likelihoods."""
    cell = next(c for c in asked.cells if c.condition.name == condition)
    shots, tests, _ = examples.load(TASK, asked.data)
    prompt = prompts.ask(tests, shots, cell.task, cell.condition, asked.limit)[n]
    engine = start.engine_of(asked)
    return (engine.likelihood_key(prompt) if seed is None else engine.completion_key(prompt, seed)), prompt.id


def planted(store: Store, key: str, change: Callable[[Record], Record]) -> None:
    """The record of a key as a mistake in the engine would have left it."""
    record = store.get(key)
    assert record is not None
    store.drop([key])
    store.put({key: change(record)})
    store.close()


def check(place: Path, store: Store, *more: str, m: int = 1000, seed: int = 0, drop: bool = False) -> Finding:
    return verify.check_store(store.folder, words(place, *more), m, seed, drop)


def test_a_sound_store_is_identical(place: Path, store: Store) -> None:
    before = {path: path.read_bytes() for path in store.folder.iterdir()}
    found = check(place, store, drop=True)
    assert (found.status, len(found.notes)) == (IDENTICAL, 1)
    assert f"{EVERY} of {EVERY} records computed again: 0 wrong" in found.notes[0]
    assert {path: path.read_bytes() for path in store.folder.iterdir()} == before  # nothing is written


WRONG: dict[str, tuple[int | None, Callable[[Record], Record], str]] = {
    "text": (105, lambda r: {**r, "text": r["text"] + " and more"}, ", seed 105: another text"),
    "tokens": (105, lambda r: {**r, "n_tokens": r["n_tokens"] + 1}, ", seed 105: another number of tokens"),
    "likelihood": (None, lambda r: {**r, "logprob": [r["logprob"][0] - 1, *r["logprob"][1:]]}, ": log-likelihoods"),
    "too few": (None, lambda r: {name: values[1:] for name, values in r.items()}, ": log-likelihoods differ"),
    "no number": (None, lambda r: {**r, "logprob": [None] * len(r["logprob"])}, ": a record that no run can read"),
    "another form": (105, lambda r: {"completion": r["text"]}, ", seed 105: a record that no run can read"),
    "another kind": (105, lambda r: {"logprob": [-1.0], "n_tokens": [1]}, ", seed 105: a record that no run can read"),
}


@pytest.mark.parametrize("kind", list(WRONG))
def test_a_wrong_record_is_counted_named_and_dropped_alone(place: Path, store: Store, kind: str) -> None:
    seed, change, note = WRONG[kind]
    key, prompt_id = key_of(composed_run(words(place)), "closed_adv_few", 2, seed)
    planted(store, key, change)
    found = check(place, store)
    assert found.status == DIFFERS
    assert f"{EVERY} of {EVERY} records computed again: 1 wrong, 0 differ at near-ties" in found.notes[0]
    assert found.notes[1].startswith(f"gpt2/{TASK}/closed_adv_few, {prompt_id}{note}")
    assert "run these cells again: gpt2/social_iqa/closed_adv_few" in found.notes[2]
    assert "--drop" in found.notes[3]
    assert Store(store.folder).get(key) == store.get(key)
    assert check(place, store, drop=True).status == DIFFERS
    left = Store(store.folder)
    assert (left.get(key), len(left)) == (None, EVERY - 1)
    assert check(place, store).status == IDENTICAL
    asked = replace(composed_run(words(place)), store=store.folder, tracking={"enabled": False, "experiment": "x"})
    assert {o.entry.status for o in run.run_all(asked, asked.cells, check=lambda: None)} == {DONE}
    again = check(place, store)  # the next run has computed it again
    assert f"{EVERY} of {EVERY} records computed again: 0 wrong" in again.notes[0]


def test_a_difference_at_a_near_tie_is_no_error_and_is_kept(place: Path, store: Store) -> None:
    key, _ = key_of(composed_run(words(place)), "closed_zero", 0, 105)
    planted(store, key, lambda r: {**r, "text": "another", "near_tie": 5e-5})
    found = check(place, store, drop=True)
    assert (found.status, EXIT[found.status]) == (NEAR_TIES, 3)
    assert "0 wrong, 1 differ at near-ties" in found.notes[0]
    assert found.notes[1].endswith("seed 105: margin 5e-05")
    assert Store(store.folder).get(key) is not None


def test_a_seed_draws_the_same_records_and_another_seed_others(place: Path, store: Store) -> None:
    for condition in CONDITIONS:
        for n in range(LIMIT):
            planted(store, key_of(composed_run(words(place)), condition, n, 105)[0], lambda r: {**r, "text": "wrong"})
    draws = [check(place, store, m=8, seed=seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1]
    assert draws[0].notes[1:] != draws[2].notes[1:]
    assert draws[0].notes[0].startswith(f"8 of {EVERY} records computed again")
    assert f"--m {EVERY} looks at every record" in draws[0].notes[-1]


def test_records_of_other_runs_are_counted_and_left_alone(place: Path, store: Store) -> None:
    store.put({f"{i:064x}": {"text": "of another run", "n_tokens": 3, "finish": "eos"} for i in range(1200)})
    found = check(place, store, drop=True)
    assert found.status == IDENTICAL
    assert found.notes[1] == "1,200 records of other runs were not looked at"
    narrow = check(place, store, f"conditions=[{CONDITIONS[0]}]")
    assert narrow.notes[0].startswith(f"{EVERY // 2} of {EVERY // 2} records")
    assert narrow.notes[1].startswith(f"{1200 + EVERY // 2:,} records of other runs")


def test_a_damaged_line_is_named_and_counts_as_missing(place: Path, store: Store) -> None:
    (path,) = store.folder.glob("*.jsonl")
    lines = [line for line in path.read_bytes().splitlines(keepends=True) if b"\tproof:" not in line]
    lines[1] = lines[1][:90] + b"?" + lines[1][91:]
    path.write_bytes(b"".join(lines)[:-9])  # and a torn last line
    found = check(place, store)
    assert found.status == IDENTICAL
    assert f"{EVERY - 2} of {EVERY - 2} records" in found.notes[0]
    assert f"{path.name}, line 2: damaged record, it will be computed again" in found.notes[1]


def test_a_model_whose_weights_are_missing_is_skipped_with_its_reason(
    place: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"none of the 24 records .* could be compared \(gpt2: .*no/such is no folder"):
        check(place, store, "model.path=no/such")
    both = [composed_run(words(place, "model.path=no/such")), composed_run(words(place))]
    monkeypatch.setattr(verify, "runs_of", lambda _: both)  # as params.yaml with two models gives
    found = check(place, store)
    assert found.status == IDENTICAL
    assert found.notes[1].startswith("skipped: gpt2: model.path=no/such is no folder")


@pytest.mark.parametrize("more", [["engine=openai", "engine.base_url=http://127.0.0.1:9/v1"], []])
def test_what_a_server_answers_is_skipped_and_not_asked_again(place: Path, store: Store, more: list[str]) -> None:
    asked = words(place, *more, model="gpt2" if more else "davinci")
    asked = asked if more else [word for word in asked if not word.startswith("model.path")]
    with pytest.raises(UserError, match=r"could be compared \((gpt2: a server answers it|davinci: )"):
        verify.check_store(store.folder, asked, 60, 0, False)


def test_a_task_that_is_not_prepared_is_skipped_with_its_reason(place: Path, store: Store) -> None:
    found = check(place, store, f"tasks=[{TASK},codenames]")
    assert found.status == IDENTICAL
    assert "skipped: gpt2/codenames/closed_zero: " in "".join(found.notes)


def test_a_segment_that_a_run_is_writing_to_is_not_replaced(place: Path, store: Store) -> None:
    key, _ = key_of(composed_run(words(place)), "closed_zero", 0, 105)
    planted(store, key, lambda r: {**r, "text": "wrong"})
    writer = Store(store.folder)
    record = writer.get(key)
    assert record is not None
    writer.put({key: record})
    with pytest.raises(UserError, match=r"A run is writing to .*Let it end or stop it"):
        check(place, store, drop=True)
    assert Store(store.folder).get(key) == record
    writer.close()
    assert check(place, store, drop=True).status == DIFFERS
    assert Store(store.folder).get(key) is None  # in both segments


def test_the_command_says_it_and_its_exit_code_too(place: Path, store: Store) -> None:
    key, _ = key_of(composed_run(words(place)), "closed_zero", 0, 105)
    planted(store, key, lambda r: {**r, "text": "wrong"})
    command = [sys.executable, "-m", "src.verify", "--store", str(store.folder), "--m", "1000", *words(place)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert re.search(r"^differs +store$", done.stdout, re.MULTILINE)
    assert f"{EVERY} of {EVERY} records computed again: 1 wrong" in done.stdout
    assert "verdict: differs" in done.stdout
    asked = words(place, f"store='{store.folder}'")
    for more, code in ((["--drop"], 4), ([], 0)):
        given = verify.parser().parse_intermixed_args(["--store", "--m", "1000", *more, *asked])
        assert verify.execute(given) == code


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--store", "{empty}"], "empty holds no whole record. Name a store: python -m src.verify --store FOLDER"),
        (["--store", "store={absent}"], "absent holds no whole record"),
        (["--store", "{absent}"], "absent is no folder. Name a store"),
        (["--store", "{empty}", "--m", "0"], "--m of 1 or more"),
        (["--store", "--recompute"], "no --recompute"),
        (["--store", "--publish"], "no --publish"),
        (["--drop"], "python -m src.verify --store --drop"),
    ],
)
def test_a_mistake_is_one_line(given: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    filled = [word.format(empty=tmp_path / "empty", absent=tmp_path / "absent") for word in given]
    with pytest.raises(UserError, match=re.escape(message)):
        verify.execute(verify.parser().parse_intermixed_args(filled))
    assert not (tmp_path / "absent").exists()


plain = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(["", "eos", "length"]))


@over(st.dictionaries(st.sampled_from(["text", "n_tokens", "finish", "logprob", "near_tie"]), st.lists(plain) | plain))
def test_no_record_whatever_it_holds_is_called_identical_unless_it_says_the_same(record: dict[str, Any]) -> None:
    assume(record.get("logprob") != [-1, -2])
    for fresh in (Completion("a", 1, "eos"), Likelihood((-1.0, -2.0), (1, 1))):
        assert stored.beside(record, fresh)[0] in (DIFFERS, NEAR_TIES)
