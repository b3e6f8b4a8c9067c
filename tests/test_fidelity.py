"""Prefixes equal the published ones; items are the known ones; a switch moves the scores it names, and no others."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src import fidelity
from src.base import conf
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.schema import Compat
from src.cell import file
from src.cell.file import Answers, Header, digests, path_of
from src.engine.job import Completion
from src.pages import page
from src.pages.tables import load_tables, rows_of, write_table
from src.question import examples
from src.question.prompts import Prompt
from src.statistics.items import items_of
from tests.members import of_source

KEY = ["task", "switch"]


def prepared(names: list[str]) -> None:
    absent = [name for name in names if not (examples.TASKS / f"{name}.jsonl").exists()]
    if absent:
        pytest.skip(f"not prepared: {', '.join(absent)} (dvc repro prepare)")


# Prefixes and items


@pytest.fixture(scope="module")
def prefixes() -> pd.DataFrame:
    return fidelity.table(fidelity.prefix_rows(), fidelity.PREFIX_COLUMNS).set_index(["task", "format"])


def test_all_published_prefixes_of_the_bigbench_tasks_are_rebuilt_byte_for_byte(prefixes: pd.DataFrame) -> None:
    names = of_source("bigbench")
    prepared(names)
    found = prefixes.loc[names]
    assert len(found) == 57
    assert found["equal"].all()
    assert (found["sha256_rebuilt"] == found["sha256_published"]).all()


def test_the_rhyming_prefixes_are_rebuilt_too(prefixes: pd.DataFrame) -> None:
    prepared(["rhyming"])
    assert prefixes.loc["rhyming", "equal"].tolist() == [True] * 3


def test_the_gsm8k_prefixes_are_rebuilt_where_its_files_are_given(prefixes: pd.DataFrame) -> None:
    prepared(["gsm8k"])
    assert prefixes.loc["gsm8k", "equal"].tolist() == [True] * 3


def test_a_prefix_without_the_published_exemplars_is_no_claim_of_either_kind(prefixes: pd.DataFrame) -> None:
    found = prefixes.loc["commonsense_qa"]
    assert found["equal"].isna().all()
    assert found["sha256_rebuilt"].isna().all()
    assert found["note"].str.contains("reconstructed").all()


def test_a_changed_exemplar_is_told(tmp_path: Path) -> None:
    prepared(["common_morpheme"])
    text = (examples.TASKS / "common_morpheme.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    rows[0]["input"] += " indeed"
    (tmp_path / "common_morpheme.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = [row for row in fidelity.prefix_rows(tmp_path) if row["task"] == "common_morpheme"]
    assert [row["equal"] for row in found] == [False] * 3


def test_a_task_that_is_not_prepared_has_nulls_and_a_note(tmp_path: Path) -> None:
    [row] = {(r["equal"], r["note"]) for r in fidelity.prefix_rows(tmp_path) if r["task"] == "strange_stories"}
    assert row == (None, "not prepared")


SIBLINGS = {"logical_deduction": 10, "tracking_shuffled_objects": 10, "strange_stories": 12, "causal_judgment": 3}


@pytest.mark.parametrize(("name", "siblings"), SIBLINGS.items())
def test_items_that_share_an_exemplars_context_are_as_many_as_the_protocol_says(name: str, siblings: int) -> None:
    prepared([name])
    assert items_of([e for part in examples.load(name)[:2] for e in part]).sibling.sum() == siblings


@pytest.mark.parametrize("name", sorted(set(of_source("bigbench")) - {"fact_checker"}))
def test_n_is_the_published_one_or_says_why_not_and_no_exemplar_is_tested(name: str) -> None:
    prepared([name])
    task, (exemplars, tests, _) = conf.load_task(name), examples.load(name)
    assert len(tests) == task.n_published or task.n_note
    assert not {(e.input, e.options) for e in exemplars} & {(e.input, e.options) for e in tests}
    assert items_of([*exemplars, *tests]).sibling.sum() == SIBLINGS.get(name, 0)


def test_a_repeated_item_and_an_exemplars_sibling_are_counted() -> None:
    exemplar = examples.Example("t/0", "g", "Is ice cold", ("yes", "no"), 0, "yes", 0)
    rows = [exemplar, *(dataclasses.replace(exemplar, id=f"t/{i}", exemplar=None, group=f"g{i}") for i in (1, 2))]
    rows.append(dataclasses.replace(rows[1], id="t/3", group="g", input="Is fire cold", target=1, answer="no"))
    items = items_of(rows)
    assert (items.sibling.sum(), items.duplicates) == (1, 1)


# Switches


class Words:
    """An encoder that counts shared words: F1 of two texts' words, so that what is nearest is known by hand."""

    def f1(self, pairs: list[tuple[str, str]]) -> np.ndarray:
        return np.array([2 * len({*a.split()} & {*b.split()}) / len([*a.split(), *b.split()]) for a, b in pairs])


def write_cell(outputs: Path, name: str, said: str, options: tuple[str, ...], target: int, **changes: object) -> None:
    """A cell of one example, asked zero-shot, with the named compat switches on."""
    folder = str(changes.pop("folder", "a_model"))
    lettered = bool(changes.pop("lettered", False))
    answer = str(changes.pop("answer", "")) or options[target].removesuffix(".")
    gold = target if options else None
    prompt = Prompt(f"{name}/0", name, "", "Which?", options, tuple(f" {o}" for o in options), gold, answer)
    answers = [Answers(prompt, {0: Completion(said, 3, "eos")}, None)]
    asked, completed = digests(answers)
    head = Header(
        fingerprint=f"{name}-{folder}", suite="s", model="m", weights="w", task=name, condition="c",
        prompt="closed_adv" if lettered else "closed", lettered=lettered, shots=0,
        compat=Compat(name="x", **changes), encoder="e",  # type: ignore[arg-type]
        prompts_sha256=asked, completions_sha256=completed, data_sha256="",
    )  # fmt: skip
    file.write_cell(path_of(outputs / folder, name, "c"), head, answers)


@pytest.fixture(scope="module")
def effects(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Each cell is one completion made for one switch."""
    outputs = tmp_path_factory.mktemp("outputs")
    write_cell(outputs, "letters", "unknown", ("unknown", "known"), 0)
    write_cell(outputs, "fourth", " (b) and not (d)", ("w", "x", "y", "z"), 1, lettered=True)
    write_cell(outputs, "again", " (b), I say (b)", ("w", "x"), 1, lettered=True)
    write_cell(outputs, "stop", ' "It is warm".', ("It is warm.", "It is cold."), 0)
    write_cell(outputs, "listed", " 100", ("10", "100"), 1)
    write_cell(outputs, "plain", ' "green"', ("red", "green"), 1)
    write_cell(outputs, "plain", ' "red"', ("red", "green"), 1, batch_budget=True, folder="a_model_published")
    return rows_of_effects(outputs).set_index(KEY)


def rows_of_effects(outputs: Path) -> pd.DataFrame:
    """compat.parquet of these outputs, scored by `Words`."""
    found = fidelity.effects(outputs, lambda _: Words())  # type: ignore[arg-type, return-value]
    return fidelity.table([row for row, _, _ in found], fidelity.EFFECT_COLUMNS)


def test_deviations_pool_the_tasks_of_a_condition(tmp_path: Path) -> None:
    """Four tasks, one moved by the switch from wrong to right: +1/4, and one cell of four named as moved."""
    for name, said in (("a", " (b) and not (d)"), ("b", " (b)"), ("c", " (c)"), ("d", " (b)")):
        write_cell(tmp_path, name, said, ("w", "x", "y", "z"), 1, lettered=True)
        write_cell(tmp_path, name, said, ("w", "x", "y", "z"), 1, lettered=True, folder="run", batch_budget=True)
    found = list(fidelity.effects(tmp_path, lambda _: Words()))  # type: ignore[arg-type, return-value]
    table = fidelity.table(fidelity.deviations(found), fidelity.DEVIATION_COLUMNS).set_index("switch")
    moved = table.loc["void_abc_only"]
    assert (moved["cells"], moved["cells_moved"], moved["n"], moved["mean_diff"]) == (4, 1, 4, 0.25)
    assert moved["ci_low"] == 0
    assert moved["ci_high"] == 0.75
    assert (table.loc["batch_budget", "mean_diff"], table.loc["batch_budget", "cells_moved"]) == (0, 0)
    assert "template_leak" not in table.index


def test_a_task_without_options_is_in_no_mean_of_bertscore_accuracy(tmp_path: Path) -> None:
    """Two tasks show options and a third shows none. Exact match is a mean over three, BERTScore accuracy over two."""
    for name, said, options in (("a", " x.", ("x.", "y.")), ("b", " x.", ("x.", "y.")), ("free", " x", ())):
        write_cell(tmp_path, name, said, options, 0, answer="x")
    found = list(fidelity.effects(tmp_path, lambda _: Words()))  # type: ignore[arg-type, return-value]
    table = fidelity.table(fidelity.deviations(found), fidelity.DEVIATION_COLUMNS).set_index("metric")
    assert (table.loc["exact_match", "cells"] == 3).all()
    assert (table.loc["bertscore_accuracy", "cells"] == 2).all()
    assert (table.loc["bertscore_accuracy", "n"] == 2).all()


def test_without_a_prepared_task_the_stage_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no prepared task\. Make them: dvc repro prepare"):
        fidelity.check_prepared(tmp_path)
    (tmp_path / "one.jsonl").touch()
    fidelity.check_prepared(tmp_path)


MOVED = {  # (task, switch): exact match fixed, switched
    ("letters", "strip_letters"): (1, 0),
    ("fourth", "void_abc_only"): (0, 1),
    ("again", "void_abc_only"): (1, 0),
    ("stop", "option_full_stop"): (1, 0),
    ("listed", "first_listed"): (1, 0),
}


@pytest.mark.parametrize(("key", "scores"), MOVED.items(), ids=lambda x: "-".join(map(str, x)))
def test_a_switch_moves_the_completion_made_for_it(
    effects: pd.DataFrame, key: tuple[str, str], scores: tuple[int, int]
) -> None:
    for switch in (key[1], "published"):
        row = effects.loc[[(key[0], switch)]].iloc[0]
        assert (row["exact_match_fixed"], row["exact_match_switched"]) == scores
        assert row["difference"] == scores[1] - scores[0]
        assert row["scores_changed"] == 1


def test_no_switch_moves_what_it_does_not_name(effects: pd.DataFrame) -> None:
    scored = effects[effects.index.get_level_values("switch").isin(fidelity.SCORING)]
    others = scored[[key not in MOVED for key in scored.index]]
    assert len(others) >= 15
    assert (others["scores_changed"] == 0).all()
    assert (others["difference"] == 0).all()


def test_bertscore_is_told_where_a_switch_can_change_it_and_only_there(effects: pd.DataFrame) -> None:
    """An option that keeps its full stop never says what the target says: BERTScore accuracy falls to 0 as well."""
    row = effects.loc[[("stop", "option_full_stop")]].iloc[0]
    assert (row["bertscore_accuracy_fixed"], row["bertscore_accuracy_switched"]) == (1, 0)
    untouched = effects.loc[["fourth", "again", "listed", "plain"]].query("switch in @fidelity.SCORING")
    assert untouched["bertscore_accuracy_switched"].isna().all()
    assert effects.loc[[("stop", "first_listed")], "bertscore_accuracy_switched"].isna().all()


def test_a_switch_of_generation_compares_two_runs_or_says_which_is_needed(effects: pd.DataFrame) -> None:
    rows = effects.loc[[("plain", "batch_budget")]]
    assert len(rows) == 1
    assert (rows["exact_match_fixed"].item(), rows["exact_match_switched"].item()) == (1, 0)
    assert rows["picks_changed"].item() == 1
    needed = effects.loc[[("letters", "batch_budget")]].iloc[0]
    assert needed["note"] == "needs a run: compat.batch_budget=true"
    assert needed["n"] is pd.NA


def test_a_cell_generated_with_a_switch_says_so(effects: pd.DataFrame) -> None:
    assert set(effects.loc["plain", "generated_with"].dropna()) == {"batch_budget"}


def test_every_switch_of_compat_is_listed() -> None:
    switches = {f.name for f in dataclasses.fields(Compat)} - {"name"}
    assert {*fidelity.SCORING, *fidelity.GENERATION} == switches
    assert not {*fidelity.SCORING} & {*fidelity.GENERATION}


def test_the_tables_show_the_frames(effects: pd.DataFrame, prefixes: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "data/fidelity").mkdir(parents=True)
    prefixes.reset_index().to_parquet(tmp_path / "data/fidelity/prefixes.parquet")
    effects.reset_index().to_parquet(tmp_path / "data/fidelity/compat.parquet")
    found = {table.name: table for table in load_tables(ROOT)}
    for name, n in (("fidelity_prefixes", 66), ("compat_scores", len(effects))):
        rows = rows_of(tmp_path, found[name])
        write_table(rows, found[name], tmp_path / "tables")
        assert len(pd.read_csv(tmp_path / f"tables/{name}.csv")) == n
        assert page.page_table(rows, found[name], set()).count("<tr") > 1
    header = (tmp_path / "tables/fidelity_prefixes.csv").read_text().splitlines()[0]
    assert header.startswith("task,format,sha256_published,sha256_rebuilt,equal")


def test_near_ties_are_listed_by_example_and_seed_and_nothing_else_is(tmp_path: Path) -> None:
    write_cell(tmp_path, "plain", " green", ("red", "green"), 1)
    path = tmp_path / "a_model/plain__c.jsonl"
    assert fidelity.near_ties(tmp_path) == []
    path.write_text(path.read_text().replace('"near_tie": null', '"near_tie": 3e-05'))
    (row,) = fidelity.near_ties(tmp_path)
    assert (row["task"], row["id"], row["seed"], row["margin"]) == ("plain", "plain/0", 0, 3e-05)


def test_what_was_asked_is_shown_word_for_word_for_one_task(tmp_path: Path) -> None:
    write_cell(tmp_path, "a", " green", ("red", "green"), 1)
    write_cell(tmp_path, "b", " red", ("red", "green"), 1)
    (row,) = fidelity.shown_prompts(tmp_path)
    assert (row["task"], row["asked"], row["gold"], row["completion"]) == ("a", "Which?", "green", " green")


def test_a_broken_cell_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a_model/t__c.jsonl"
    path.parent.mkdir()
    path.write_text("{")
    with pytest.raises(UserError, match=r"t__c\.jsonl is not a whole cell"):
        list(fidelity.effects(tmp_path))


def test_no_cell_at_all_still_makes_a_table(tmp_path: Path) -> None:
    found = rows_of_effects(tmp_path)
    assert (len(found), tuple(found.columns)) == (0, fidelity.EFFECT_COLUMNS)
