"""A cell's file: what is written is read back, and what is no whole cell is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import pytest

from src.base import conf
from src.base.errors import UserError
from src.base.schema import Compat, Condition
from src.cell import file
from src.cell.file import (
    Answers,
    Header,
    Recorded,
    cell_files,
    condition_of,
    digests,
    files_in,
    glance,
    is_cell,
    path_of,
    read_cell,
    read_header,
    score,
    write_cell,
)
from src.engine.job import Completion, Likelihood
from src.question.prompts import Prompt

OPTIONS = ("a stone", "a cork", "a leaf", "a feather")
RECORDED = Recorded({"primary_metric": "exact_match"}, {"tokens": 7.0}, {"device": "cpu"})


@pytest.fixture
def answers() -> list[Answers]:
    """Two examples, the first right with one of two seeds, the second with both."""
    continuations = tuple(f" {option}" for option in OPTIONS)
    prompts = [
        Prompt(f"t/{i}", "g", "Shots.\n", f"What sinks, {i}?", OPTIONS, continuations, 0, "a stone") for i in (0, 1)
    ]
    texts = [("a stone", "a cork"), ("a stone", "a stone")]
    likelihoods = [Likelihood((-1.0, -2.0, -3.0, -4.5), (2, 2, 2, 3)), None]
    return [
        Answers(p, {105: Completion(one, 3, "eos"), 2266: Completion(other, 3, "length", 1e-5)}, likelihood)
        for p, (one, other), likelihood in zip(prompts, texts, likelihoods, strict=True)
    ]


@pytest.fixture
def head(answers: list[Answers]) -> Header:
    prompts_sha256, completions_sha256 = digests(answers)
    return Header(
        fingerprint="0123456789ab", suite="s", model="m", weights="w", task="t", condition="closed_few",
        prompt="closed", lettered=False, shots=5, compat=Compat(name="fixed", first_listed=True), encoder="e",
        prompts_sha256=prompts_sha256, completions_sha256=completions_sha256, data_sha256="d",
    )  # fmt: skip


@pytest.fixture
def path(tmp_path: Path, head: Header, answers: list[Answers]) -> Path:
    path = path_of(tmp_path / "m", head.task, head.condition)
    write_cell(path, head, answers)
    return path


@pytest.mark.parametrize("recorded", [None, RECORDED])
def test_what_is_written_is_read_back(
    path: Path, head: Header, answers: list[Answers], recorded: Recorded | None
) -> None:
    head = replace(head, recorded=recorded)
    write_cell(path, head, answers)
    assert read_cell(path) == (head, answers)
    assert read_header(path) == head
    assert glance(path) == (head, {105, 2266}, 2)


def test_the_header_stands_first_its_keys_in_order_and_the_prefix_once(path: Path) -> None:
    first, *rest = map(json.loads, path.read_text().splitlines())
    assert [*first] == [*(f.name for f in fields(Header) if f.name not in ("proof", "recorded")), "prefix"]
    assert [*rest[0]] == ["prompt", "completions", "likelihood"]
    assert path.read_text().count("Shots.") == 1


def test_a_header_is_frozen(head: Header) -> None:
    with pytest.raises(FrozenInstanceError):
        head.task = "another"  # type: ignore[misc]


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[str], str]:
    """The first line of a cell, edited."""

    def edit(line: str) -> str:
        row = json.loads(line)
        change(row)
        return json.dumps(row)

    return edit


READERS = [read_cell, read_header, glance]


@pytest.mark.parametrize("reader", READERS, ids=lambda each: each.__name__)
@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda line: line[:50], "Unterminated string"),
        (lambda line: "", "Expecting value"),
        (lambda line: "[1, 2]", ""),
        (lambda line: "3", ""),
        (changed(lambda row: row.update(colour="red")), "its header has the unknown key 'colour'"),
        (changed(lambda row: row.pop("lettered")), "'lettered'"),
        (changed(lambda row: row.pop("compat")), "'compat'"),
        (changed(lambda row: row["compat"].update(colour=True)), "'colour'"),
    ],
    ids=["cut", "empty", "list", "number", "unknown key", "missing key", "no rules", "unknown rule"],
)
def test_a_damaged_first_line_is_refused_by_every_reader(
    path: Path, reader: Callable[[Path], object], edit: Callable[[str], str], reason: str
) -> None:
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([edit(first), *rest]) + "\n")
    with pytest.raises(UserError, match=r"t__closed_few\.jsonl is not a whole cell .*dvc repro -f infer@m") as error:
        reader(path)
    assert reason in str(error.value)


def test_a_changed_text_is_an_edit(path: Path) -> None:
    path.write_text(path.read_text().replace("a cork", "a boat"))
    with pytest.raises(UserError, match="was edited: its prompts differ"):
        read_cell(path)


def test_a_file_of_another_kind_is_told_from_a_cell(path: Path, tmp_path: Path) -> None:
    others = {"segment": "key\t{}\n", "task": '{"id": "t/0"}\n', "list": "[1]\n", "empty": "", "bytes": "\x00"}
    for name, text in others.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert is_cell(path)
    assert not any(is_cell(tmp_path / name) for name in (*others, "binary"))


def test_cells_are_found_by_model_and_condition(tmp_path: Path, head: Header, answers: list[Answers]) -> None:
    names = [("m", "t", "closed_few"), ("m", "u", "open_few"), ("n", "t", "closed_few")]
    every = [path_of(tmp_path / model, task, condition) for model, task, condition in names]
    for path in every:
        write_cell(path, head, answers)
    (tmp_path / "m/ledger.json").write_text("[]")
    assert cell_files(tmp_path) == every
    assert cell_files(tmp_path, condition="closed_few") == [every[0], every[2]]
    assert cell_files(tmp_path, "n") == [every[2]]
    assert files_in(tmp_path / "m") == every[:2]
    assert [condition_of(path) for path in every] == [condition for _, _, condition in names]


def test_a_summary_is_the_primary_metric_over_examples_beside_exact_chance(
    head: Header, answers: list[Answers]
) -> None:
    scored = file.scored(head, answers, None, "exact_match")
    summary = scored.summary
    assert (summary.n, summary.accuracy, summary.chance, summary.above_chance) == (2, 0.75, 0.25, 0.5)
    assert summary.unparsed == 0
    assert "likelihood" not in summary.means  # that of one example is unknown
    known = [replace(answer, likelihood=answers[0].likelihood or answers[1].likelihood) for answer in answers]
    assert "likelihood" in file.scored(head, known, None, "exact_match").summary.means
    without = file.summary(answers, scored.scores, "bertscore_accuracy")
    assert without.accuracy is without.above_chance is None


def test_the_encoder_is_loaded_for_answers_in_words_alone(head: Header, answers: list[Answers]) -> None:
    def refuse(name: str) -> Any:
        raise UserError(f"asked for {name}")

    with pytest.raises(UserError, match="asked for e"):
        score(head, answers, refuse)
    assert score(replace(head, lettered=True), answers, refuse)
    assert score(head, answers, None)


def test_a_plain_condition_is_named_by_its_format_and_shots_and_no_control_is() -> None:
    for name in conf.known("condition"):
        condition = conf.load("condition", name, Condition)
        assert condition.plain == (name == f"{condition.prompt}_{'few' if condition.few_shot else 'zero'}")
