"""Every format gives the same records for the same answers; what is not whole gives none, and says what to do."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow
import pytest

from src.base.errors import UserError
from src.foreign import formats, inspect_log
from src.foreign.record import Fields
from tests import logs

ASKED = logs.items([0, 2, 2, 0, 0, 2])  # right: 0, 2, 3, 5
RIGHT = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0]


def table(path: Path) -> Path:
    rows = [
        {"task": "sinks", "item": each.id, "input": each.question, "pick": each.pick, "target": each.target,
         "n_options": 3, "model": "org/m", "passage": each.group}
        for each in ASKED
    ]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(rows)
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_csv(path, index=False)
    return path


MADE: dict[str, Callable[[Path], Path]] = {
    "lm_eval": lambda place: logs.lm_eval(place / "out", {"sinks": logs.lm_eval_rows(ASKED, ("acc",))}),
    "inspect": lambda place: logs.inspect(place / "logs/one.eval", ASKED),
    "helm": lambda place: logs.helm(place / "runs/v1/sinks", ASKED, "sinks"),
    "every_eval_ever": lambda place: logs.write_rows(place / "one.jsonl", logs.every_eval_ever_rows(ASKED)),
    "table": lambda place: table(place / "one.csv"),
    "parquet": lambda place: table(place / "two.parquet"),
}


@pytest.mark.parametrize("made", MADE)
def test_a_log_says_the_same_whatever_its_format(made: str, tmp_path: Path) -> None:
    read = formats.read(MADE[made](tmp_path))
    assert read.format == {"parquet": "table"}.get(made, made)
    assert [(r.model, r.task) for r in read.records] == [("org/m", "sinks")] * 6
    assert [r.score for r in read.records] == RIGHT
    assert [r.text for r in read.records] == [each.question for each in ASKED]
    assert [(r.target, r.pick, len(r.options)) for r in read.records] == [(a.target, a.pick, 3) for a in ASKED]
    assert all(r.picked_known for r in read.records)


@pytest.mark.parametrize("made", [name for name in MADE if name != "helm"])
def test_a_field_can_be_named_as_the_cluster(made: str, tmp_path: Path) -> None:
    records = formats.read(MADE[made](tmp_path), Fields(group="passage")).records
    assert [r.group for r in records] == [each.group for each in ASKED]


@pytest.mark.parametrize("made", MADE)
def test_a_cluster_that_is_not_there_is_refused(made: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="chapter"):
        formats.read(MADE[made](tmp_path), Fields(group="chapter"))


@pytest.mark.parametrize("made", MADE)
def test_a_file_cut_short_gives_nothing(made: str, tmp_path: Path) -> None:
    place = MADE[made](tmp_path)
    (file,) = formats.found(place)[1]
    file.write_bytes(file.read_bytes()[:-40])
    if made == "table":  # a line that lacks its last values is cut there
        file.write_text(file.read_text() + "\n")
    with pytest.raises(UserError, match=rf"{file.name}.*(Copy|Known names|Give it|whole number)"):
        formats.read(place)


def test_a_file_of_samples_that_ends_at_a_line_is_short_by_its_own_count(tmp_path: Path) -> None:
    """Where a file is cut between two lines, the run's own count says so."""
    place = MADE["lm_eval"](tmp_path)
    (file,) = formats.found(place)[1]
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match="holds 5 items, and its run answered 6: it is cut short"):
        formats.read(place)


def test_a_log_of_inspect_that_lacks_a_sample_is_refused(tmp_path: Path) -> None:
    place = logs.inspect(tmp_path / "one.eval", ASKED, results={"total_samples": 7})
    with pytest.raises(UserError, match="holds 6 samples, and its run had 7"):
        formats.read(place)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"version": 3}, "log of version 3"),
        ({"status": "error"}, "ended as 'error'"),
        ({"status": "started"}, "ended as 'started'"),
    ],
)
def test_a_log_of_another_version_or_of_a_run_that_failed_is_refused(
    header: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        formats.read(logs.inspect(tmp_path / "one.eval", ASKED, **header))


def test_another_version_of_samples_is_refused(tmp_path: Path) -> None:
    rows = [{**row, "schema_version": "1.0"} for row in logs.every_eval_ever_rows(ASKED)]
    with pytest.raises(UserError, match=r"line 1: schema 1\.0\. This reader knows"):
        formats.read(logs.write_rows(tmp_path / "one.jsonl", rows))
    old = [{key: value for key, value in row.items() if key != "filtered_resps"} for row in logs.lm_eval_rows(ASKED)]
    with pytest.raises(UserError, match="no filtered_resps"):
        formats.read(logs.lm_eval(tmp_path / "out", {"sinks": old}))


def test_the_two_files_of_a_helm_run_hold_the_same_instances(tmp_path: Path) -> None:
    place = logs.helm(tmp_path / "run", ASKED)
    state = json.loads((place / "scenario_state.json").read_text())
    state["request_states"].pop()
    (place / "scenario_state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match="do not hold the same instances"):
        formats.read(place)


@pytest.mark.parametrize("made", ["lm_eval", "every_eval_ever", "table"])
def test_an_item_that_stands_twice_is_refused(made: str, tmp_path: Path) -> None:
    place = MADE[made](tmp_path)
    (file,) = formats.found(place)[1]
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines, lines[-1]]))
    with pytest.raises(UserError, match=r"holds item 5 of sinks .* twice"):
        formats.read(place)


def test_an_item_that_is_asked_in_several_epochs_is_no_duplicate(tmp_path: Path) -> None:
    read = formats.read(logs.inspect(tmp_path / "one.eval", ASKED, epochs=3))
    assert len(read.records) == 18
    assert {r.repeat for r in read.records} == {"1", "2", "3"}


def test_two_runs_of_one_task_in_one_folder_are_a_question(tmp_path: Path) -> None:
    for time in (logs.TIME, "2026-02-02T00-00-00.000000"):
        logs.lm_eval(tmp_path / "out", {"sinks": logs.lm_eval_rows(ASKED)}, time=time)
    with pytest.raises(UserError, match=r"is in two files: .* Name one of them"):
        formats.read(tmp_path / "out")


def test_two_formats_in_one_folder_are_a_question(tmp_path: Path) -> None:
    MADE["inspect"](tmp_path)
    MADE["table"](tmp_path)
    with pytest.raises(UserError, match="results of 2 formats"):
        formats.read(tmp_path)


def test_a_pick_that_does_not_explain_the_score_is_not_taken(tmp_path: Path) -> None:
    """Where the harness scored by another rule than is known, what was picked is unknown, and the score stays."""
    rows = [{**row, "acc": 1.0 - row["acc"]} for row in logs.lm_eval_rows(ASKED, ("acc",))]
    records = formats.read(logs.lm_eval(tmp_path / "out", {"sinks": rows})).records
    assert [r.score for r in records] == [1.0 - score for score in RIGHT]
    assert not any(r.picked_known for r in records)


def test_a_score_that_is_no_number_or_not_there_is_refused(tmp_path: Path) -> None:
    rows = logs.lm_eval_rows(ASKED, ("acc", "acc_norm"))
    rows[2]["acc"] = float("nan")
    with pytest.raises(UserError, match=r"item 2 has nan by acc, which is no score"):
        formats.read(logs.lm_eval(tmp_path / "out", {"sinks": rows}))
    del rows[2]["acc"]
    with pytest.raises(UserError, match="acc judges 5 items, and another metric 6"):
        formats.read(logs.lm_eval(tmp_path / "out", {"sinks": rows}))


def test_a_helm_run_without_a_judging_statistic_says_what_it_has(tmp_path: Path) -> None:
    place = logs.helm(tmp_path / "run", ASKED)
    text = (place / "per_instance_stats.json").read_text()
    (place / "per_instance_stats.json").write_text(text.replace("exact_match", "toxic_fraction"))
    with pytest.raises(UserError, match=r"none of the statistics .*It has: num_bytes, toxic_fraction"):
        formats.read(place)


@pytest.mark.parametrize("form", [" {letter}", ' "{option}".', " ({letter})"])
def test_the_options_of_an_item_are_its_texts_however_they_were_asked_for(form: str, tmp_path: Path) -> None:
    rows = logs.lm_eval_rows(ASKED, ("acc",))
    for row in rows:
        for i, option in enumerate(row["doc"]["choices"]):
            row["arguments"][f"gen_args_{i}"]["arg_1"] = form.format(letter="ABC"[i], option=option)
    records = formats.read(logs.lm_eval(tmp_path / "out", {"sinks": rows})).records
    assert {r.options for r in records} == {ASKED[0].options}
    assert [r.pick for r in records] == [each.pick for each in ASKED]


def test_the_options_of_an_item_in_another_order_are_not_taken(tmp_path: Path) -> None:
    rows = logs.lm_eval_rows(ASKED, ("acc",))
    for row in rows:
        row["doc"]["choices"] = row["doc"]["choices"][::-1]
    records = formats.read(logs.lm_eval(tmp_path / "out", {"sinks": rows})).records
    assert {r.options for r in records} == {ASKED[0].options}


def test_two_filters_are_two_metrics(tmp_path: Path) -> None:
    rows = [
        {**row, "filter": kind, "arguments": {"gen_args_0": {"arg_0": "Q", "arg_1": {"until": []}}}}
        for row in logs.lm_eval_rows(ASKED, ("exact_match",))
        for kind in ("strict-match", "flexible-extract")
    ]
    records = formats.read(logs.lm_eval(tmp_path / "out", {"sinks": rows})).records
    assert {r.metric for r in records} == {"exact_match,strict-match", "exact_match,flexible-extract"}
    assert len(records) == 12


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("1,", "line 2: None is no score"),
        ("1,good", "line 2: 'good' is no score"),
        ("1,inf", "line 2: 'inf' is no score"),
        (",1", "line 2: it has no item"),
    ],
)
def test_a_row_of_a_table_that_says_nothing_is_refused(row: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text(f"item,score\n{row}\n2,1\n")
    with pytest.raises(UserError, match=said):
        formats.read(tmp_path / "one.csv")


@pytest.mark.parametrize(
    ("word", "score"), [("True", 1.0), ("false", 0.0), ("1", 1.0), ("0.25", 0.25), ("correct", 1.0)]
)
def test_a_score_can_be_a_word(word: str, score: float, tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text(f"id,correct\nx,{word}\n")
    assert [r.score for r in formats.read(tmp_path / "one.csv").records] == [score]


def test_two_columns_of_one_meaning_are_a_question(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("item,score,correct\nx,1,0\n")
    with pytest.raises(UserError, match="score and correct both stand for the score"):
        formats.read(tmp_path / "one.csv")


def test_what_holds_no_results_says_what_is_known(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(UserError, match=r"holds no results of examples \(it has notes\.txt\)\. Known: samples of lm-"):
        formats.read(tmp_path)


def zstandard(place: Path) -> Path:
    """The log as inspect itself compresses it, which zipfile cannot write before Python 3.14."""
    with zipfile.ZipFile(place) as archive:
        plain = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(place, "w") as archive:
        for name, content in plain.items():
            archive.writestr(name, pyarrow.compress(content, "zstd", asbytes=True))
    with zipfile.ZipFile(place) as archive:
        raw, central = bytearray(place.read_bytes()), archive.start_dir
        for info in archive.infolist():
            said = struct.pack("<I", zlib.crc32(plain[info.filename])), struct.pack("<I", len(plain[info.filename]))
            for method, crc, size in ((info.header_offset + 8, 6, 14), (central + 10, 6, 14)):
                raw[method : method + 2] = (93).to_bytes(2, "little")
                raw[method + crc : method + crc + 4], raw[method + size : method + size + 4] = said
            central += 46 + len(info.filename.encode()) + len(info.extra) + len(info.comment)
    place.write_bytes(raw)
    return place


def test_a_log_is_read_as_inspect_compresses_it(tmp_path: Path) -> None:
    plain = formats.read(logs.inspect(tmp_path / "plain.eval", ASKED)).records
    packed = zstandard(logs.inspect(tmp_path / "packed.eval", ASKED))
    assert formats.read(packed).records == plain
    packed.write_bytes(packed.read_bytes().replace(b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\xfe", 3))
    with pytest.raises(UserError, match=r"packed\.eval is no whole log"):
        formats.read(packed)


def test_a_long_question_of_a_sample_is_an_attachment() -> None:
    message = {"role": "user", "content": "attachment://ab"}
    assert inspect_log._question([message], {"ab": "What sinks?"}) == "What sinks?"
