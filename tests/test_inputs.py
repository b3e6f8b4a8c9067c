"""Files as people bring them: what may be odd in a task's file and comes out right, and lines that stay lines."""

from __future__ import annotations

import ast
import gzip
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src import audit, prepare, stats
from src.base import conf
from src.base.errors import UserError
from src.base.files import ROOT, from_json_lines, json_lines
from src.base.frames import inert
from src.base.schema import Compat, Condition
from src.cell import hashes
from src.question import examples, prompts, readers
from src.question.examples import Example
from src.scoring import chance, match
from src.scoring.match import Rules
from src.source import archives
from src.source.pins import Archive, Source
from tests.inputs import FIRST, ITEM, LABELLED, a_task, bigbench, lines

ODD = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
"""Every character at which str.splitlines ends a line."""
SECOND = {"input": "What has an eye?", "target_scores": {"a needle": 1, "a mirror": 0}}
TEXTS = st.text(st.characters() | st.sampled_from(ODD + '\ufeff\ud800\t"\\'))
TOLD_BY_PROGRAMS = {
    "base/errors.py", "base/git.py", "lab/machine.py", "lab/refusals.py", "lab/runs.py", "lab/slurm.py", "lab/spent.py",
    "source/archives.py", "verify.py",
}  # fmt: skip
"""Files that split what pip, git, Slurm, the system or an error says. No text of a data set is in it."""


def prepared(tmp_path: Path, content: bytes, **changes: object) -> list[Example]:
    task = a_task(**changes)
    path = tmp_path / task.source / task.file
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return examples.parsed(prepare.prepare(task, tmp_path).encode(), path)


# ---- lines


@given(st.lists(st.dictionaries(TEXTS, TEXTS)))
def test_json_lines_come_back_as_they_went_and_every_kind_of_reader_finds_as_many(rows: list[dict[str, str]]) -> None:
    raw = json_lines(rows)
    assert from_json_lines(raw) == rows
    assert len(raw.decode().splitlines()) == len(rows)


def test_no_reader_of_data_splits_at_more_than_a_newline() -> None:
    """str.splitlines, and a loop over a file that was opened as text, also split inside a JSON string or a csv cell."""
    found = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ("splitlines", "readlines"):
                found.add(path.relative_to(ROOT / "src").as_posix())
            if isinstance(node, ast.For | ast.comprehension) and ".open(" in ast.unparse(node.iter):
                found.add(path.relative_to(ROOT / "src").as_posix())
    assert found <= TOLD_BY_PROGRAMS


@pytest.mark.parametrize("odd", ODD)
def test_an_item_with_a_line_break_of_any_kind_is_one_item(tmp_path: Path, odd: str) -> None:
    text, option = f"What{odd}has an eye?", f"a{odd}needle"
    made = prepared(tmp_path, bigbench({"input": text, "target_scores": {option: 1, "b": 0}}).encode())
    assert [(e.input, e.answer) for e in made] == [(FIRST["input"], "a clock"), (text, option)]


@given(TEXTS)
def test_a_text_in_a_csv_is_one_cell_of_one_line(text: str) -> None:
    assert not set(inert(text)) & {"\r", "\x0b", "\x0c", "\x00"}


# ---- a task's file


@pytest.mark.parametrize(
    ("content", "reader"),
    [
        (b"\xef\xbb\xbf" + bigbench(SECOND).encode(), "bigbench"),
        (json.dumps({"examples": [FIRST, SECOND]}, indent=1).replace("\n", "\r\n").encode(), "bigbench"),
        (b"\xef\xbb\xbf" + lines(ITEM, ITEM | {"input": "x"}).encode(), "items"),
        (lines(ITEM, ITEM | {"input": "x"}).replace("\n", "\r\n").encode(), "items"),
        (lines(ITEM, ITEM | {"input": "x"}).removesuffix("\n").encode(), "items"),
        (lines(ITEM, ITEM | {"input": "x"}).replace("\n", "\n\n \r\n").encode(), "items"),
    ],
    ids=["mark", "CRLF", "mark, lines", "CRLF, lines", "no newline at the end", "blank lines"],
)
def test_what_editors_do_to_a_file_changes_no_item(tmp_path: Path, content: bytes, reader: str) -> None:
    made = prepared(tmp_path, content, reader=reader)
    first = ITEM["input"] if reader == "items" else FIRST["input"]
    assert [e.input for e in made] == [first, "x" if reader == "items" else SECOND["input"]]


@pytest.mark.parametrize(
    "input_text",
    ["שלום, מה יש לו פנים?", "e\u0301te\u0301", "\u00e9t\u00e9", "x" * 100_000, "🜁 of \u200f\u202emarks"],
    ids=["right to left", "NFD", "NFC", "100 kB", "marks of direction"],
)
def test_a_text_is_asked_as_it_stands_in_the_file(tmp_path: Path, input_text: str) -> None:
    made = prepared(tmp_path, bigbench({**SECOND, "input": input_text}).encode())
    assert made[1].input == input_text


def test_a_list_of_one_right_answer_is_that_answer(tmp_path: Path) -> None:
    made = prepared(tmp_path, bigbench({"input": "What has an eye?", "target": ["a needle"]}).encode())
    assert (made[1].options, made[1].answer) == ((), "a needle")
    items = readers.read_items(lines(ITEM | {"answer": ["a gate"]}))
    assert items[0].target == 1
    assert readers.read_labelled_choices(lines(LABELLED | {"answerKey": ["B"]}))[0].answer == "a dog"


def test_the_papers_own_files_are_scored_by_its_rule(tmp_path: Path) -> None:
    """The first option with the score 1 is right, every other is wrong, whatever its score."""
    entry = {"input": "What has an eye?", "target_scores": {"a": 0.5, "b": 1, "c": 1.0, "B": 0}}
    made = prepared(tmp_path, bigbench(entry).encode(), as_published=True)
    assert (made[1].target, made[1].answer) == (1, "b")


@pytest.mark.parametrize("n", [2, 26, 27, 200])
def test_any_number_of_options_is_asked_in_words(n: int) -> None:
    """Each is shown, each is scored, the letters give out at 27 and nothing else does."""
    options = tuple(f"number {i}" for i in range(n))
    tests = [Example("t/0", "t/0", "Which?", options, n - 1, options[-1], None)]
    task = a_task()
    (closed,) = prompts.ask(tests, (), task, conf.load("condition", "closed_zero", Condition))
    assert all(f'"{option}"' in closed.text for option in options)
    assert len(closed.continuations) == len(set(closed.continuations)) == n
    rules = Rules(False, Compat())
    assert match.exact_match(f' "{options[-1]}".', closed, rules).picked == n - 1
    assert chance.chance_scored([closed], rules) == pytest.approx(1 / n)
    if n <= 26:
        (lettered,) = prompts.ask(tests, (), task, conf.load("condition", "closed_adv_zero", Condition))
        assert len(set(lettered.continuations)) == n
        rules = Rules(True, Compat())
        for i, said in enumerate(lettered.continuations):
            assert match.exact_match(said, lettered, rules).picked == i


@given(st.lists(st.text("ab c.", min_size=1, max_size=4), min_size=2, max_size=6), st.data())
def test_an_item_that_is_taken_has_one_right_option_that_can_be_said(options: list[str], data: st.DataObject) -> None:
    """Of options that begin or repeat each other, the ones that are taken are told apart when they are said alone."""
    gold = data.draw(st.integers(0, len(options) - 1))
    row = readers.Row("x", tuple(options), gold, options[gold])
    if list(readers.faults(row)):
        return
    test = Example("t/0", "t/0", "x", row.options, gold, row.answer, None)
    (prompt,) = prompts.ask([test], (), a_task(), conf.load("condition", "closed_zero", Condition))
    rules = Rules(False, Compat())
    for i, option in enumerate(options):
        parsed = match.exact_match(f' "{prompts.without_full_stop(option)}"', prompt, rules)
        assert match.right(parsed.picked, prompt, rules) == (i == gold)
    assert chance.chance_scored([prompt], rules) == pytest.approx(1 / len(options))


# ---- archives and names of files


def archive_of(*names: str) -> bytes:
    """A tar of files of 30 kB."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 30_000
            archive.addfile(info, io.BytesIO(name[:1].encode() * info.size))
    return plain.getvalue()


def test_an_archive_of_several_gzip_members_is_read_to_its_end(tmp_path: Path) -> None:
    plain, path = archive_of("one", "two", "three"), tmp_path / "own.tar.gz"
    path.write_bytes(gzip.compress(plain[:40_000]) + gzip.compress(plain[40_000:]))
    sizes = [(name, len(stream.read())) for name, stream in archives.sdist_members(path)]
    assert sizes == [("one", 30_000), ("two", 30_000), ("three", 30_000)]


HARMS: list[Callable[[bytes], bytes]] = [
    lambda raw: raw[:-40],
    lambda raw: b"no archive",
    lambda raw: raw[:40] + b"xxxx" + raw[44:],
    lambda raw: b"",
]


@pytest.mark.parametrize("harm", HARMS, ids=["cut", "another kind", "damaged", "empty"])
def test_a_damaged_archive_is_named(tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "own.tar.gz"
    path.write_bytes(harm(gzip.compress(archive_of("task.json"))))
    archive = Archive(package="own==1.0", file="own.tar.gz")
    source = Source(name="own", licence="", folder="", files={"task.json": "0"}, disk_bytes=1, archives=[archive])
    with pytest.raises(UserError, match=r"own: own\.tar\.gz is damaged"):
        archives.unpack(source, tmp_path, tmp_path / "work")


@pytest.mark.parametrize("name", ["my riddles.json", "rätsel.JSON", "ein 'tick'.json"])
def test_a_task_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    made = prepared(tmp_path, bigbench(SECOND).encode(), file=name)
    assert [asdict(e)["answer"] for e in made] == ["a clock", "a needle"]


# ---- nothing that was run came to anything


def test_a_suite_whose_every_cell_failed_has_hashes_of_nothing(tmp_path: Path) -> None:
    """The ledger says why. The page can then be made of what is published."""
    (tmp_path / "outputs/model").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no cell"):
        hashes.publish(tmp_path / "outputs", tmp_path / "hashes")
    (tmp_path / "outputs/model/ledger.json").write_text("[]")
    hashes.publish(tmp_path / "outputs", tmp_path / "hashes")
    assert (tmp_path / "hashes/completions.csv").read_text().count("\n") == 1


def test_the_paper_is_not_judged_where_its_tasks_are_not_prepared(tmp_path: Path) -> None:
    """Its cells below chance would count without a chance level, and statements would get other words."""
    setting = stats.read_setting(ROOT)
    own = {"riddles": next(iter(setting.items.values()))}
    assert audit.unprepared(setting) == {}
    one = dict(list(setting.items.items())[1:])
    assert list(audit.unprepared(replace(setting, items=one))) == [next(iter(setting.items))]
    absent = audit.unprepared(replace(setting, items=own))
    (tmp_path / audit.OUT).mkdir(parents=True)
    (tmp_path / audit.OUT / "audit.parquet").write_bytes(b"of another day")
    said = audit.no_verdicts(absent, tmp_path)
    assert f"{len(absent)} of its tasks are not prepared" in said
    assert "put bigbench, rhyming under sources in params.yaml" in said
    assert [path.name for path in (tmp_path / audit.OUT).iterdir()] == [audit.WHY_NOT.name]
    audit.write({}, tmp_path)
    assert list((tmp_path / audit.OUT).iterdir()) == []
