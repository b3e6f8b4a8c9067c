"""What a server answers is stored as it came where it is an answer, and kept and named where it is none."""

from __future__ import annotations

import copy
import csv
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient

from src import annotate, collect, fidelity, run
from src.base.errors import UserError
from src.base.frames import csv_text, write_csv
from src.base.schema import Generation, Model, Serving
from src.base.values import digest
from src.cell import hashes
from src.cell.file import cell_files, files_in, read_cell
from src.cell.store import Store
from src.engine.job import Completion, Request
from src.engine.openai import OpenAIEngine
from src.engine.start import kept
from src.lab.moved import own_folder
from src.question.prompts import Prompt
from tests.completions import Served, serving
from tests.engine.test_openai import answers, same, words
from tests.engine.test_openai import local as local  # a fixture
from tests.test_pipeline import execute
from tests.test_pipeline import place as place  # a fixture

Bend = Callable[[dict[str, Any]], Any]
SEEDS = (1,)


def prompt_of(number: int) -> Prompt:
    text = f"Which is larger, a mouse or {number} houses? The correct one is"
    return Prompt(f"t/{number}", f"g{number}", "", text, ("mouse", "house"), (' "mouse".', ' "house".'), 0, "mouse")


PROMPT = prompt_of(0)


class Shop:
    """A server with a tiny model behind it, and a folder for what cannot be used."""

    def __init__(self, served: Served, url: str, folder: Path):
        self.served, self.url, self.folder = served, url, folder

    def engine(self, **how: Any) -> OpenAIEngine:
        serves = Serving(name="openai", kind="openai", base_url=self.url, model="m", **{"retries": 0, **how})
        prices = {"usd_per_million_in": 1000.0, "usd_per_million_out": 1000.0}
        keep = functools.partial(kept, self.folder)
        return OpenAIEngine(serves, Model(name="m", **prices), Generation(temperature=0.0), None, keep)

    def completion(self, bend: Bend, **how: Any) -> Completion:
        self.served.bend, self.served.asked = (lambda asked, answer: bend(copy.deepcopy(answer))), []
        ((result,),) = self.engine(**how).run([Request(PROMPT, SEEDS, False)])
        return result.completions[1]


@pytest.fixture(scope="module")
def served(place: Path) -> Iterator[tuple[Served, str]]:
    behind = Served(place / "weights")
    with serving(behind) as url:
        yield behind, url


@pytest.fixture
def shop(served: tuple[Served, str], tmp_path: Path) -> Shop:
    behind, url = served
    behind.bend, behind.asked, behind.faults = None, [], []
    behind.delivered.clear()
    return Shop(behind, url, tmp_path / "unusable")


# ---- What is no answer


def choice(**changes: Any) -> Bend:
    """The choice changed. A value of ... is left out."""

    def bend(answer: dict[str, Any]) -> dict[str, Any]:
        changed = {**answer["choices"][0], **changes}
        return {**answer, "choices": [{key: value for key, value in changed.items() if value is not ...}]}

    return bend


def whole(**changes: Any) -> Bend:
    """The answer changed. A value of ... is left out."""
    return lambda answer: {key: value for key, value in {**answer, **changes}.items() if value is not ...}


def counted(finish: str, n_tokens: int) -> Bend:
    usage = {"prompt_tokens": 9, "completion_tokens": n_tokens}
    return lambda answer: choice(finish_reason=finish)(whole(usage=usage)(answer))


def raw(body: bytes) -> Bend:
    return lambda answer: body


NONE: dict[str, tuple[Bend, str]] = {
    "filtered": (choice(text="", finish_reason="content_filter"), "finish_reason content_filter"),
    "filtered half way": (choice(finish_reason="content_filter"), "finish_reason content_filter"),
    "no finish reason": (choice(finish_reason=None), "did not end"),
    "finish reason left out": (choice(finish_reason=...), "did not end"),
    "an error": (choice(text="", finish_reason="error"), "did not end"),
    "aborted": (choice(finish_reason="abort"), "did not end"),
    "cancelled": (choice(finish_reason="cancelled"), "did not end"),
    "tool calls": (choice(finish_reason="tool_calls"), "finish_reason tool_calls"),
    "a finish reason of another type": (choice(finish_reason={"a": 1}), "finish_reason"),
    "text null": (choice(text=None), "no text"),
    "text left out": (choice(text=...), "no text"),
    "text a number": (choice(text=7), "no text"),
    "text a list": (choice(text=["a"]), "no text"),
    "the prompt before the text": (choice(text=PROMPT.text + " a"), "begins with the whole prompt"),
    "more than was asked": (counted("stop", 9999), "9999 tokens where"),
    "less than was asked": (counted("length", 2), "cut at 2 tokens"),
    "the prompt before the text, behind <s>": (choice(text=f"<s> {PROMPT.text} a"), "begins with the whole prompt"),
    "no choices": (whole(choices=[]), "no choices"),
    "choices null": (whole(choices=None), "no choices"),
    "choices left out": (whole(choices=...), "no choices"),
    "a choice null": (whole(choices=[None]), "no choices"),
    "an error with status 200": (whole(choices=..., error={"message": "out of memory"}), "out of memory"),
    "two completions": (lambda answer: {**answer, "choices": answer["choices"] * 2}, "2 completions"),
    "a list": (lambda answer: [answer], "no choices"),
    "null": (lambda answer: None, "no choices"),
    "HTML": (raw(b"<html>Bad gateway</html>"), "Expecting value"),
    "nothing": (raw(b""), "Expecting value"),
    "cut off": (raw(b'{"choices": [{"text": "a'), "Unterminated"),
    "no UTF-8": (raw(b'{"choices": [{"text": "\xff\xfe"}]}'), "codec"),
    "nested without end": (raw(b"[" * 100_000), "recursion"),
}


@pytest.mark.parametrize("what", NONE)
def test_what_is_no_answer_is_kept_and_named_and_never_given_on(shop: Shop, what: str) -> None:
    bend, said = NONE[what]
    sent: list[Any] = []
    with pytest.raises(UserError, match=r"answered t/0 with what is no answer: .*What came back is kept in") as error:
        shop.completion(lambda answer: sent.append(bend(answer)) or sent[-1])
    assert said in str(error.value)
    (path,) = shop.folder.iterdir()
    assert str(path) in str(error.value)
    asked, reply = path.read_bytes().split(b"\n", 1)
    assert asked.endswith(b"t/0")
    assert reply == sent[0] if isinstance(sent[0], bytes) else json.loads(reply) == sent[0]


def test_what_may_be_an_answer_the_next_time_is_asked_again_and_what_cannot_be_is_not(shop: Shop) -> None:
    def once(bad: Bend) -> Bend:
        return lambda answer: bad(answer) if len(shop.served.asked) == 1 else answer

    assert shop.completion(once(choice(text=None)), retries=2).text
    assert len(list(shop.folder.iterdir())) == 1  # the first was paid for as well
    with pytest.raises(UserError, match="content_filter"):
        shop.completion(once(choice(finish_reason="content_filter")), retries=2)
    assert len(shop.served.asked) == 1


SOME: dict[str, tuple[Bend, Any]] = {
    "usage left out": (whole(usage=...), None),
    "usage null": (whole(usage=None), None),
    "usage empty": (whole(usage={}), None),
    "usage a text": (whole(usage="7"), None),
    "tokens null": (whole(usage={"prompt_tokens": 3, "completion_tokens": None}), None),
    "tokens negative": (whole(usage={"prompt_tokens": 3, "completion_tokens": -1}), None),
    "tokens a fraction": (whole(usage={"prompt_tokens": 3, "completion_tokens": 1.5}), None),
    "tokens true": (whole(usage={"prompt_tokens": 3, "completion_tokens": True}), None),
    "tokens without end": (whole(usage={"prompt_tokens": 3, "completion_tokens": 10**400}), None),
    "no tokens at all": (whole(usage={"prompt_tokens": 0, "completion_tokens": 0}), None),
    "no tokens for a text": (whole(usage={"prompt_tokens": 3, "completion_tokens": 0}), None),
    "nothing but choices and usage": (
        lambda answer: {key: counted("stop", 2)(answer)[key] for key in ("choices", "usage")}, 2
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SOME)
def test_a_count_of_tokens_that_is_none_is_unknown_and_the_text_is_an_answer(shop: Shop, what: str) -> None:
    bend, n_tokens = SOME[what]
    plain = shop.completion(counted("stop", 3))
    found = shop.completion(lambda answer: bend(counted("stop", 3)(answer)))
    assert (found.text, found.finish, found.n_tokens) == (plain.text, plain.finish, n_tokens)


@pytest.mark.parametrize(
    ("reason", "finish"), [("stop", "eos"), ("length", "length"), ("eos_token", "eos"), ("stop_sequence", "eos")]
)
def test_a_text_that_ended_says_how(shop: Shop, reason: str, finish: str) -> None:
    assert shop.completion(counted(reason, shop.engine().budget(PROMPT))).finish == finish


@pytest.mark.parametrize("usage", [..., None, {}, {"prompt_tokens": 0, "completion_tokens": 0}])
def test_an_answer_without_usage_costs_all_that_it_may_have_cost(shop: Shop, usage: Any) -> None:
    """A budget of 0.3 USD at 0.001 USD a token is spent before nine prompts are asked."""
    shop.served.bend = lambda asked, answer: whole(usage=usage)(answer)
    engine = shop.engine(max_cost_usd=0.3, concurrency=1)
    with pytest.raises(UserError, match=r"engine.max_cost_usd=0.3"):
        list(engine.run([Request(prompt_of(number), SEEDS, False) for number in range(9)]))
    assert 0 < len(shop.served.asked) < 9
    assert 0.3 / 9 < engine.cost_usd <= 0.3


# ---- Stored at once


def test_a_run_that_ends_between_two_answers_stores_those_under_way(shop: Shop, tmp_path: Path) -> None:
    requests = [Request(prompt_of(number), SEEDS, False) for number in range(20)]
    bench: Any = run.Bench(None, shop.engine(concurrency=4), Store(tmp_path / "store"), None, None, None)  # type: ignore[arg-type]
    computing = run.compute(bench, requests, requests)
    next(computing)
    computing.close()  # as a stop, a time limit or an error of whoever stores does
    assert 1 < sum(shop.served.delivered.values()) < 20
    assert len(Store(tmp_path / "store")) == sum(shop.served.delivered.values())


ODD = (
    "\ud800", 'a \udfff"a cork"', ' "a cork"\ud83d', "\x00", "a\x00b", "\u2028one\u2029two\x85", "\r", "a\r\nb\rc\f",
    "\x1b[31m", "\ufffe\uffff", "\U0010ffff", "\ufeff a", "a\tb", "=1+1\ud800", "x" * 300_000, "\\ud800", "",
)  # fmt: skip


class Odd:
    """Says the texts of ODD, one after the other."""

    number = 0

    def __call__(self, asked: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        text = ODD[self.number % len(ODD)]
        self.number += 1
        return choice(text=text, finish_reason="stop")(answer)


@pytest.fixture(scope="module")
def spoken(place: Path) -> Path:
    """A folder whose outputs/m holds four cells that were answered with the texts of ODD."""
    folder = place / "odd"
    asked = [f"store='{folder / 'store'}'", "generation.likelihood=false", "limit=12", "tracking.experiment=odd"]
    with serving(Served(place / "weights", bend=Odd())) as url:
        given = words(url, *asked)
        assert execute(place, *given, out="odd/outputs/m") == 0
    before = [path.read_bytes() for path in cell_files(folder / "outputs")]
    assert execute(place, *given, out="odd/outputs/m") == 0  # the server is gone: every text is read from the store
    assert [path.read_bytes() for path in cell_files(folder / "outputs")] == before
    return folder


def test_any_text_is_stored_and_read_as_it_was_said(spoken: Path) -> None:
    """Lone surrogates, controls, odd line breaks, a very long text."""
    for files in (cell_files(spoken / "outputs"), files_in(spoken / "cells/odd")):
        assert len(files) == 4
        assert {c.text for path in files for a in read_cell(path)[1] for c in a.completions.values()} == set(ODD)
    merged = Store(spoken / "store").merge()
    assert merged
    texts = {json.loads(line.split(b"\t", 2)[2])["text"] for line in merged.read_bytes().splitlines()}
    assert texts == set(ODD)
    merged.read_bytes().decode()  # is UTF-8


def test_any_text_is_in_the_table_of_mlflow(spoken: Path) -> None:
    client = MlflowClient(f"sqlite:///{spoken.parent / 'runs.db'}")
    experiment = client.get_experiment_by_name("odd").experiment_id
    logged = client.search_runs([experiment], "tags.kind = 'cell'")
    assert len(logged) == 4
    folders = [own_folder(client, each) for each in logged]
    tables = [json.loads((folder / "examples.json").read_text()) for folder in folders if folder]
    assert len(tables) == 4
    assert {row[table["columns"].index("completion")] for table in tables for row in table["data"]} == set(ODD)


def test_any_text_is_scored_hashed_and_shown(spoken: Path, tmp_path: Path) -> None:
    frame = collect.collect(spoken / "outputs")
    assert len(frame) == 48
    frame.to_parquet(tmp_path / "scores.parquet")
    assert frame.loc[frame.prompt == "closed", "bertscore_accuracy"].notna().all()
    assert hashes.hashes(spoken / "outputs")["completions"]["sha256"].nunique() == len(ODD)
    shown = fidelity.table(fidelity.shown_prompts(spoken / "outputs"), fidelity.SHOWN_COLUMNS)
    shown.to_parquet(tmp_path / "prompts.parquet")
    csv_text(pd.read_parquet(tmp_path / "prompts.parquet")).encode()


def test_a_sheet_with_any_text_is_graded_row_by_row(spoken: Path, tmp_path: Path) -> None:
    drawn = [annotate.draw(spoken / "outputs", name, None, 50) for name in ("closed_few", "closed_adv_zero")]
    rows = [row for each in drawn for row in each]
    assert len(rows) == 48
    assert max(len(row["answer"]) for row in rows) == 300_000
    csv.field_size_limit(131_072)  # Python's own, which another test may have raised
    write_csv(pd.DataFrame([{**row, "right": "1"} for row in rows]), tmp_path / "sheet.csv")
    assert annotate.grades(tmp_path / "sheet.csv") == {row["key"]: True for row in rows}


def test_two_texts_that_differ_in_a_lone_surrogate_alone_have_different_hashes(tmp_path: Path) -> None:
    texts = ("a\ud800", "a\udfff", "a\\ud800", "a?", "a\ufffd")
    assert len({hashes.text_hash(text) for text in texts}) == len(texts)
    assert len({digest({"text": text}) for text in texts}) == len(texts)
    Store(tmp_path).put({f"{i}": {"text": text} for i, text in enumerate(texts)})
    assert [(Store(tmp_path).get(f"{i}") or {})["text"] for i in range(len(texts))] == list(texts)


# ---- No absence is stored


def test_what_a_server_does_not_offer_is_asked_of_the_next_one(
    place: Path, local: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    served = Served(place / "weights", scores=False)
    with serving(served) as url:
        asked = words(url, f"store='{place / 'stores/later'}'", "engine.concurrency=1")
        assert execute(place, *asked, out="outputs/later") == 0
        without = answers(place / "outputs/later")
        assert {row[2] for rows in without.values() for row in rows} == {None}
        served.scores = True
        before = dict(served.delivered)
        assert execute(place, *asked, out="outputs/later") == 0
    same(answers(place / "outputs/later"), local)
    assert all(served.delivered[name] == times for name, times in before.items() if name.startswith("[false"))


def test_one_unknown_likelihood_leaves_the_accuracy_of_its_cell_missing_and_is_the_only_one_asked_again(
    place: Path, local: dict[str, Any]
) -> None:
    def bend(asked: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        if asked.get("echo") and "case 4?" in asked["prompt"][0].rsplit("What sinks", 1)[1] and not served.scored_well:
            answer["choices"][0]["logprobs"]["tokens"][0] = "?"
        return answer

    served = Served(place / "weights", bend=bend)
    served.scored_well = False  # type: ignore[attr-defined]
    with serving(served) as url:
        asked = words(url, f"store='{place / 'stores/one'}'", "conditions=[closed_few]", "limit=12")
        assert execute(place, *asked, out="outputs/one/m") == 0
        frame = collect.collect(place / "outputs/one")
        assert frame["exact_match"].notna().all()
        assert frame["likelihood"].isna().all()
        known = [a.likelihood for path in cell_files(place / "outputs/one") for a in read_cell(path)[1]]
        assert known.count(None) == 2  # the same prompt in each task; the others are kept
        served.scored_well, served.asked = True, []  # type: ignore[attr-defined]
        assert execute(place, *asked, out="outputs/one/m") == 0
    assert len(served.asked) == 1
    assert collect.collect(place / "outputs/one")["likelihood"].notna().all()


@pytest.mark.parametrize(
    "record",
    [
        {"logprob": [], "n_tokens": []},
        {"logprob": [-1.0], "n_tokens": [1]},
        {"logprob": [-1.0, float("nan")], "n_tokens": [1, 1]},
        {"logprob": [-1.0, -2.0], "n_tokens": [1]},
    ],
)
def test_a_stored_likelihood_that_lacks_an_option_counts_as_absent(
    shop: Shop, tmp_path: Path, record: dict[str, Any]
) -> None:
    engine, store = shop.engine(), Store(tmp_path / "store")
    store.put({engine.likelihood_key(PROMPT): record, engine.completion_key(PROMPT, 1): {"text": "", "n_tokens": 1}})
    bench: Any = run.Bench(None, engine, store, None, None, None)  # type: ignore[arg-type]
    assert run.missing(bench, [Request(PROMPT, SEEDS, True)]) == [Request(PROMPT, (), True)]


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_refuses_to_echo_costs_the_likelihoods_alone(
    place: Path, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    served = Served(place / "weights", refuses_echo=status)
    with serving(served) as url:
        asked = words(url, f"store='{place / 'stores' / str(status)}'", "conditions=[closed_few]", "limit=2")
        assert execute(place, *asked, out=f"outputs/{status}") == 0
    said = capsys.readouterr().err
    assert said.count("the server refuses to echo: ") <= 2
    assert "no echo here" in said
    for rows in answers(place / f"outputs/{status}").values():
        assert {row[2] for row in rows} == {None}
