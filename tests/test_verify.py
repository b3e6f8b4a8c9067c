"""Did I get what was published here: a fresh run beside hashes, a release beside itself, and both tampered with."""

import hashlib
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import yaml

from src import cells, collect, config, release, run, verify
from tests.test_pipeline import TASKS, made_up
from tests.tiny import tiny

CONDITIONS = ("closed_adv_few", "closed_adv_zero")
CELL = "data/cells/llama_7b/social_iqa__closed_adv_few.jsonl"
MADE = pytest.mark.skipif(
    not (config.ROOT / collect.OUTPUTS).is_dir() or not (config.ROOT / collect.SCORES).exists(),
    reason="the main job has not run here: dvc repro",
)


def given(place: Path) -> list[str]:
    """What a user adds because weights and data lie elsewhere."""
    return [
        f"model.path='{place / 'weights'}'", "model.tasks=null", "model.dtype=float32", f"data='{place / 'data/tasks'}'"
    ]  # fmt: skip


def grid(**more) -> dict:
    asked = {"tasks": list(TASKS), "conditions": list(CONDITIONS), "seeds": [2266, 105], "limit": 6}
    rest = {"sources": ["bigbench"], "incomplete": "fail", "encoder": "minilm", "alpha": 0.05}
    return {"suite": "pilot", "models": ["llama_7b"], **asked, **rest, **more}


def asked(place: Path, *more: str) -> config.Run:
    words = [f"{key}=[{','.join(map(str, grid()[key]))}]" for key in ("tasks", "conditions", "seeds")]
    return config.composed_run(["+model=llama_7b", *given(place), *words, "limit=6", *more])


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A finished run of a tiny model in a checkout of its own."""
    root = tmp_path_factory.mktemp("a place")
    tiny("llama", root / "weights")
    for folder in ("data/tasks", "reports"):
        (root / folder).mkdir(parents=True)
    for task in TASKS:
        (root / f"data/tasks/{task}.jsonl").write_text(made_up(task))
    for name in ("pyproject.toml", "CITATION.cff"):
        (root / name).write_bytes((config.ROOT / name).read_bytes())
    (root / "params.yaml").write_text(yaml.safe_dump(grid()))
    (root / "reports/metrics.json").write_text("{}\n")
    done = verify.anew(asked(root), root / "data")
    assert {e.status for e in done} == {run.DONE}
    collect.collect(root / "data/outputs").to_parquet(root / "data/scores.parquet", index=False)
    for words in (
        ["init", "-q"],
        ["add", "params.yaml"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"],
    ):
        subprocess.run(["git", *words], cwd=root, check=True)
    return root


@pytest.fixture(scope="module")
def bundle(place) -> Path:
    return release.write(place, place / "dist/a.zip")


# ---- a fresh run beside the published hashes


def test_another_batch_budget_changes_at_most_digits_and_says_how_many(place, tmp_path, capsys):
    verify.anew(asked(place, "token_budget=256"), tmp_path)
    found, largest = verify.compare(verify.hashes(place / "data/outputs"), verify.hashes(tmp_path / "outputs"), {})
    assert [f.status for f in found] == [verify.IDENTICAL] * 4
    assert largest < 1e-3
    assert verify.say(found, [], largest) == 0
    assert "4 cells: 4 identical" in (said := capsys.readouterr().out)
    assert "log-likelihoods: largest difference" in said
    assert len(list((place / "data/store").glob("*.jsonl"))) == 1  # the fresh run left the first one's store alone


def other(frames: dict, name: str, **values) -> dict:
    """The same hashes but for the first row of one frame."""
    frame = frames[name].copy()
    for column, value in values.items():
        frame[column] = frame[column].astype(object)
        frame.loc[0, column] = value
    return {**frames, name: frame}


@pytest.mark.parametrize(
    ("name", "values", "status", "code", "note"),
    [
        ("completions", {"sha256": "0" * 16}, verify.DIFFERS, 4, "another text"),
        ("completions", {"sha256": "0" * 16, "near_tie": 5e-5}, verify.NEAR_TIES, 3, "margin 5e-05"),
        ("completions", {"fingerprint": "0" * 12}, verify.DIFFERS, 4, "weights or settings"),
        ("completions", {"id": "else/1"}, verify.DIFFERS, 4, "not run here"),
        ("likelihoods", {"logprob": "-1 -2 -3"}, verify.DIFFERS, 4, "log-likelihood differs by"),
    ],
)
def test_what_differs_is_named_and_the_exit_code_says_how(place, capsys, name, values, status, code, note):
    published = verify.hashes(place / "data/outputs")
    found, largest = verify.compare(published, other(published, name, **values), {})
    assert sorted(f.status for f in found) == sorted([status, *[verify.IDENTICAL] * 3])
    assert verify.say(found, [], largest) == code
    said = capsys.readouterr().out
    assert note in said
    assert f"verdict: {status}" in said


def test_a_score_that_moved_while_its_completions_did_not_is_a_difference():
    row = {
        "fingerprint": "f",
        "metric": "exact_match",
        "n": 16,
        "k": 7,
        "accuracy": 0.4375,
        "ci_low": 0.2,
        "ci_high": 0.7,
    }
    before, after = pd.DataFrame([row]), pd.DataFrame([{**row, "k": 8, "accuracy": 0.5}])
    assert verify.moved_scores(before, before) == {}
    notes = ["exact_match k: 7 -> 8", "exact_match accuracy: 0.4375 -> 0.5"]
    assert verify.moved_scores(before, after) == {"f": notes}


def test_a_part_of_a_cell_is_compared_with_that_part(place):
    published = verify.hashes(place / "data/outputs")
    part = {name: frame[frame["id"].str.endswith(("/1", "/2", "/3"))] for name, frame in published.items()}
    part["completions"] = part["completions"].assign(fingerprint="0" * 12)  # it depends on every prompt of the cell
    narrowed = {name: verify.asked_for(frame, part[name]) for name, frame in published.items()}
    found, _ = verify.compare(narrowed, part, {})
    assert {f.status for f in found} == {verify.IDENTICAL}


def test_a_run_that_has_no_published_cell_is_not_called_identical(place):
    fresh = verify.hashes(place / "data/outputs")
    published = {name: frame.iloc[:0] for name, frame in fresh.items()}
    with pytest.raises(config.UserError, match="was published"):
        verify.compare(published, fresh, {})


def test_a_commit_without_published_hashes_is_named():
    words = ["-m", "src.verify", "--against", "0000000"]
    done = subprocess.run([sys.executable, *words], cwd=config.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: What was published cannot be read")
    assert "--against <revision>" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_published_hashes_hold_every_completion_and_no_text(place, tmp_path):
    verify.publish(place / "data/outputs", tmp_path)
    frame = pd.read_csv(tmp_path / "completions.csv")
    assert len(frame) == len(TASKS) * len(CONDITIONS) * 6 * 2
    head, answers = cells.read(place / "data/outputs/llama_7b/social_iqa__closed_adv_few.jsonl")
    one = frame[(frame["fingerprint"] == head.fingerprint) & (frame["id"] == answers[0].prompt.id)]
    wanted = {s: hashlib.sha256(c.text.encode()).hexdigest()[:16] for s, c in answers[0].completions.items()}
    assert dict(zip(one["seed"], one["sha256"], strict=True)) == wanted
    assert "What sinks" not in "".join(path.read_text() for path in tmp_path.iterdir())


def test_published_anew_only_what_is_another_number_is_written_anew(place, tmp_path):
    verify.publish(place / "data/outputs", tmp_path)
    path = tmp_path / "likelihoods.csv"
    text = path.read_text()
    first, second = (line.rpartition(",")[2] for line in text.splitlines()[1:3])
    digits, other = (
        " ".join(f"{float(x) + gap:.8g}" for x in row.split()) for row, gap in ((first, 2e-5), (second, 1))
    )
    moved = text.replace(first, digits)
    path.write_text(moved.replace(second, other))
    verify.publish(place / "data/outputs", tmp_path)
    assert path.read_text() == moved != text


@pytest.mark.parametrize(
    "damage", ["", "<<<<<<< HEAD\n", "{header}\n{row}\n{row}\n", "{header}\n<<<<<<< HEAD\n{row}\n"]
)
def test_damaged_log_likelihoods_are_written_anew(place, tmp_path, damage):
    verify.publish(place / "data/outputs", tmp_path)
    path = tmp_path / "likelihoods.csv"
    text = path.read_text()
    header, row, *_ = text.splitlines()
    path.write_text(damage.format(header=header, row=row))
    verify.publish(place / "data/outputs", tmp_path)
    assert path.read_text() == text


# ---- a release


def files_of(bundle: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(bundle) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def tampered(bundle: Path, folder: Path, **changes: bytes) -> Path:
    """The release with other files and the manifest made anew: only what the files say can give it away."""
    files = {**files_of(bundle), **changes}
    files.pop(release.MANIFEST)
    release.zipped(folder / "t.zip", {**files, release.MANIFEST: release.manifest(files)})
    return folder / "t.zip"


def differing(found: list[verify.Finding]) -> list[str]:
    return [f.name for f in found if f.status != verify.IDENTICAL]


def test_the_same_run_gives_the_same_bytes(place, bundle, tmp_path):
    assert release.write(place, tmp_path / "b.zip").read_bytes() == bundle.read_bytes()


def test_no_dataset_text_but_what_a_completion_says(bundle, place):
    rows = [json.loads(line) for task in TASKS for line in made_up(task).splitlines()]
    for name, content in files_of(bundle).items():
        text = content.decode("utf-8", "replace")
        if name.startswith(release.CELLS):
            lines = [json.loads(line) for line in text.splitlines()]
            text = json.dumps([{**line, "completions": None} for line in lines])
        assert not [r for r in rows if r["input"] in text or any(f'"{o}"' in text for o in r["options"])], name


def test_the_metadata_is_an_ro_crate(bundle):
    files = files_of(bundle)
    found = json.loads(files[release.CRATE])
    assert found["@context"] == "https://w3id.org/ro/crate/1.1/context"
    entities = {entity["@id"]: entity for entity in found["@graph"]}
    assert len(entities) == len(found["@graph"])
    descriptor, root = entities["ro-crate-metadata.json"], entities["./"]
    assert descriptor["@type"] == "CreativeWork"
    assert descriptor["about"] == {"@id": "./"}
    assert descriptor["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    assert root["@type"] == "Dataset"
    assert {"name", "description", "datePublished", "license"} <= set(root)
    pd.Timestamp(root["datePublished"])
    assert {part["@id"] for part in root["hasPart"]} == set(files) - {release.CRATE}
    for name in set(files) - {release.CRATE, release.MANIFEST}:
        assert entities[name]["@type"] == "File"
        assert entities[name]["contentSize"] == str(len(files[name]))
    pointed = [v["@id"] for e in found["@graph"] for v in e.values() if isinstance(v, dict) and "@id" in v]
    assert {p for p in pointed if not p.startswith("https://w3id.org/")} <= set(entities)


def test_sha256sum_reads_the_manifest(bundle, tmp_path):
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path)
    done = subprocess.run(["sha256sum", "--check", "--strict", release.MANIFEST], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0


@pytest.mark.parametrize("level", ["scores", "sample"])
def test_an_untouched_release_is_identical(bundle, place, level):
    assert differing(verify.check(bundle, level, given(place), 60, 0)) == []


def test_a_changed_byte_is_found_by_the_checksums(bundle, tmp_path):
    files = files_of(bundle)
    files["params.yaml"] = files["params.yaml"].replace(b"6", b"7")
    release.zipped(tmp_path / "t.zip", files)
    (found,) = verify.check(tmp_path / "t.zip", "tables", [], 60, 0)
    assert (found.status, found.notes) == (verify.DIFFERS, ("params.yaml",))


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"no zip", lambda raw: raw[::-1]])
def test_a_damaged_archive_is_a_users_error(bundle, tmp_path, damage):
    (tmp_path / "t.zip").write_bytes(damage(bundle.read_bytes()))
    with pytest.raises(config.UserError, match="damaged or no release"):
        verify.check(tmp_path / "t.zip", "tables", [], 60, 0)


def edited(bundle: Path, honest: bool) -> bytes:
    """A cell whose first completion says more; honest: with the cell's hash of completions made anew as well."""
    head, *rows = (json.loads(line) for line in files_of(bundle)[CELL].decode().splitlines())
    rows[0]["completions"]["105"]["text"] += " and more"
    if honest:
        said = [[r["id"], {int(s): c["text"] for s, c in r["completions"].items()}] for r in rows]
        head["completions_sha256"] = config.digest(said)
    return "".join(json.dumps(line) + "\n" for line in (head, *rows)).encode()


def test_a_changed_completion_is_found_by_its_cell(bundle, place, tmp_path):
    path = tampered(bundle, tmp_path, **{CELL: edited(bundle, honest=False)})
    found = verify.check(path, "scores", given(place), 60, 0)
    assert differing(found) == ["llama_7b/social_iqa/closed_adv_few"]


def test_a_changed_completion_with_every_hash_made_anew_is_found_by_generating_it_again(bundle, place, tmp_path):
    path = tampered(bundle, tmp_path, **{CELL: edited(bundle, honest=True)})
    (_, sample) = verify.check(path, "sample", given(place), 1000, 0)
    assert sample.status == verify.DIFFERS
    assert "48 of 48 completions generated again: 1 wrong" in sample.notes[0]
    assert "seed 105: another text" in sample.notes[1]


def test_a_changed_score_is_found_by_scoring_again(bundle, place, tmp_path):
    scores = pd.read_parquet(place / "data/scores.parquet")
    scores.loc[0, "exact_match"] = 1 - scores.loc[0, "exact_match"]
    raw = io.BytesIO()
    scores.to_parquet(raw, index=False)
    path = tampered(bundle, tmp_path, **{"data/scores.parquet": raw.getvalue()})
    first = scores.iloc[0]
    (found,) = [f for f in verify.check(path, "scores", given(place), 60, 0) if f.status != verify.IDENTICAL]
    assert found.name == f"llama_7b/{first['task']}/{first['condition']}"
    assert found.notes[0].startswith(f"{first['example_id']}: exact_match is")


def test_other_weights_are_named_and_not_counted_as_wrong(bundle, place, tmp_path):
    tiny("llama", tmp_path / "weights", seed=1)
    words = [w for w in given(place) if not w.startswith("model.path")] + [f"model.path='{tmp_path / 'weights'}'"]
    with pytest.raises(config.UserError, match="not the weights or the settings of the release"):
        verify.check(bundle, "sample", words, 3, 0)


@pytest.mark.parametrize(("wrong", "m", "bound"), [(0, 60, 0.0487), (1, 60, 0.0766), (0, 1, 0.95), (3, 3, 1.0)])
def test_the_bound_is_clopper_pearsons(wrong, m, bound):
    """0 of 60: 1 - 0.05 ** (1 / 60). 1 of 60: the p at which at most 1 of 60 has probability 0.05."""
    assert verify.Sample(m, 3840, wrong, 0, ()).bound == pytest.approx(bound, abs=5e-5)


def test_nothing_to_release_is_said(tmp_path):
    with pytest.raises(config.UserError, match="Make it: dvc repro"):
        release.members(tmp_path)


# ---- the real ones


@MADE
@pytest.mark.slow
def test_real_weights_on_one_thread_and_in_small_batches_give_the_published_completions():
    words = ["tasks=[social_iqa]", "conditions=[closed_adv_zero]", "token_budget=2048"]
    command = [sys.executable, "-m", "src.verify", "--recompute", *words]
    done = subprocess.run(command, cwd=config.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 cells: 1 identical" in done.stdout


@MADE
@pytest.mark.slow
def test_a_changed_score_of_the_real_release_is_found_in_the_tables_it_leads_to_and_no_other(tmp_path):
    bundle = release.write(config.ROOT, tmp_path / "a.zip")
    scores = pd.read_parquet(config.ROOT / collect.SCORES)
    at = scores.index[(scores["condition"] == "closed_adv_zero") & (scores["seed"] == 105)][0]
    scores.loc[at, "exact_match"] = 1 - scores.loc[at, "exact_match"]
    raw = io.BytesIO()
    scores.to_parquet(raw, index=False)
    path = tampered(bundle, tmp_path, **{"data/scores.parquet": raw.getvalue()})
    found = verify.check(path, "tables", [], 60, 0)
    assert "table own_runs" in differing(found)
    published_only = {
        "table table2_agreement",
        "table overlap_figure2",
        "table questions",
        "table power",
        "table audit",
    }
    assert not published_only & set(differing(found))
    assert published_only <= {f.name for f in found}
