"""Did I get what was published here: a fresh run beside hashes, a release beside itself, and both tampered with."""

import hashlib
import io
import json
import math
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hypothesis import assume
from hypothesis import given as over
from hypothesis import strategies as st

from src import collect, release, verify
from src.base import git
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.grid import composed_run
from src.base.schema import Run
from src.base.values import digest
from src.cell.compare import compare, moved_scores
from src.cell.file import read_cell
from src.cell.finding import DIFFERS, IDENTICAL, NEAR_TIES, Finding
from src.cell.hashes import hashes, publish, settled_margins
from src.cell.last_digits import NUMBER, difference, file_difference
from src.cell.ledger import DONE
from src.cell.regenerated import Sample
from src.cell.released import CELLS
from tests.test_pipeline import TASKS, made_up
from tests.tiny import tiny

CONDITIONS = ("closed_adv_few", "closed_adv_zero")
CELL = "data/cells/llama_7b/social_iqa__closed_adv_few.jsonl"
MADE = pytest.mark.skipif(
    not (ROOT / collect.OUTPUTS).is_dir() or not (ROOT / collect.SCORES).exists(),
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


def asked(place: Path, *more: str) -> Run:
    words = [f"{key}=[{','.join(map(str, grid()[key]))}]" for key in ("tasks", "conditions", "seeds")]
    return composed_run(["+model=llama_7b", *given(place), *words, "limit=6", *more])


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A finished run of a tiny model in a checkout of its own."""
    root = tmp_path_factory.mktemp("a place")
    tiny("llama", root / "weights")
    for folder in ("data/tasks", "reports"):
        (root / folder).mkdir(parents=True)
    for task in TASKS:
        (root / f"data/tasks/{task}.jsonl").write_text(made_up(task))
    for name in ("pyproject.toml", "CITATION.cff", "dvc.yaml"):
        (root / name).write_bytes((ROOT / name).read_bytes())
    (root / "params.yaml").write_text(yaml.safe_dump(grid()))
    (root / "reports/metrics.json").write_text("{}\n")
    done = verify.anew(asked(root), root / "data")
    assert {e.status for e in done} == {DONE}
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
    found, largest = compare(hashes(place / "data/outputs"), hashes(tmp_path / "outputs"), {})
    assert [f.status for f in found] == [IDENTICAL] * 4
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
        ("completions", {"sha256": "0" * 16}, DIFFERS, 4, "another text"),
        ("completions", {"sha256": "0" * 16, "near_tie": 5e-5}, NEAR_TIES, 3, "margin 5e-05"),
        ("completions", {"fingerprint": "0" * 12}, DIFFERS, 4, "weights or settings"),
        ("completions", {"id": "else/1"}, DIFFERS, 4, "not run here"),
        ("likelihoods", {"logprob": "-1 -2 -3"}, DIFFERS, 4, "log-likelihood differs by"),
    ],
)
def test_what_differs_is_named_and_the_exit_code_says_how(place, capsys, name, values, status, code, note):
    published = hashes(place / "data/outputs")
    found, largest = compare(published, other(published, name, **values), {})
    assert sorted(f.status for f in found) == sorted([status, *[IDENTICAL] * 3])
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
    assert moved_scores(before, before) == {}
    assert moved_scores(before, before.assign(accuracy=0.437501)) == {}
    notes = ["exact_match k: 7 -> 8", "exact_match accuracy: 0.4375 -> 0.5"]
    assert moved_scores(before, after) == {"f": notes}


def test_a_part_of_a_cell_is_compared_with_that_part(place):
    published = hashes(place / "data/outputs")
    part = {name: frame[frame["id"].str.endswith(("/1", "/2", "/3"))] for name, frame in published.items()}
    part["completions"] = part["completions"].assign(fingerprint="0" * 12)  # it depends on every prompt of the cell
    narrowed = {name: verify.asked_for(frame, part[name]) for name, frame in published.items()}
    found, _ = compare(narrowed, part, {})
    assert {f.status for f in found} == {IDENTICAL}


def test_a_run_that_has_no_published_cell_is_not_called_identical(place):
    fresh = hashes(place / "data/outputs")
    published = {name: frame.iloc[:0] for name, frame in fresh.items()}
    with pytest.raises(UserError, match="was published"):
        compare(published, fresh, {})


def test_a_commit_without_published_hashes_is_named():
    words = ["-m", "src.verify", "--against", "0000000"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: What was published cannot be read")
    assert "--against <revision>" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_published_hashes_hold_every_completion_and_no_text(place, tmp_path):
    publish(place / "data/outputs", tmp_path)
    frame = pd.read_csv(tmp_path / "completions.csv")
    assert len(frame) == len(TASKS) * len(CONDITIONS) * 6 * 2
    head, answers = read_cell(place / "data/outputs/llama_7b/social_iqa__closed_adv_few.jsonl")
    one = frame[(frame["fingerprint"] == head.fingerprint) & (frame["id"] == answers[0].prompt.id)]
    wanted = {s: hashlib.sha256(c.text.encode()).hexdigest()[:16] for s, c in answers[0].completions.items()}
    assert dict(zip(one["seed"], one["sha256"], strict=True)) == wanted
    assert "What sinks" not in "".join(path.read_text() for path in tmp_path.iterdir())


def test_published_anew_only_what_is_another_number_is_written_anew(place, tmp_path):
    publish(place / "data/outputs", tmp_path)
    path = tmp_path / "likelihoods.csv"
    text = path.read_text()
    first, second = (line.rpartition(",")[2] for line in text.splitlines()[1:3])
    digits, other = (
        " ".join(f"{float(x) + gap:.8g}" for x in row.split()) for row, gap in ((first, 2e-5), (second, 1))
    )
    moved = text.replace(first, digits)
    path.write_text(moved.replace(second, other))
    publish(place / "data/outputs", tmp_path)
    assert path.read_text() == moved != text


@pytest.mark.parametrize(
    "damage", ["", "<<<<<<< HEAD\n", "{header}\n{row}\n{row}\n", "{header}\n<<<<<<< HEAD\n{row}\n"]
)
def test_damaged_log_likelihoods_are_written_anew(place, tmp_path, damage):
    publish(place / "data/outputs", tmp_path)
    path = tmp_path / "likelihoods.csv"
    text = path.read_text()
    header, row, *_ = text.splitlines()
    path.write_text(damage.format(header=header, row=row))
    publish(place / "data/outputs", tmp_path)
    assert path.read_text() == text


def test_a_margin_published_anew_stays_as_it_was_while_its_completion_is_the_same(tmp_path):
    """Only where both were near-ties: one that is a near-tie only now is news, and so is another text."""
    shared = {"model": "m", "task": "t", "condition": "c", "fingerprint": "f", "seed": 1}
    rows = [{**shared, "id": f"t/{i}", "sha256": str(i)} for i in range(4)]
    now = pd.DataFrame(rows).assign(near_tie=[3.7e-5, None, 3.7e-5, 3.7e-5])
    before = now.assign(near_tie=[5.1e-5, 5.1e-5, None, 5.1e-5], sha256=["0", "1", "2", "other"])
    kept = settled_margins(before, now)["near_tie"]
    assert kept.astype(object).where(kept.notna(), None).tolist() == [5.1e-5, None, 3.7e-5, 3.7e-5]


def test_margins_published_anew_on_another_processor_leave_the_file_alone(place, tmp_path):
    publish(place / "data/outputs", tmp_path / "a")
    path = tmp_path / "a/completions.csv"
    text = path.read_text()
    outputs = tmp_path / "outputs"
    shutil.copytree(place / "data/outputs", outputs)
    for margin in ("5.05795e-05", "3.72281e-05"):
        for cell in outputs.glob("*/*.jsonl"):
            cell.write_text(re.sub(r'"near_tie": [^},]+', f'"near_tie": {margin}', cell.read_text()))
        publish(outputs, tmp_path / "a")
    assert path.read_text() == text.replace(",\n", ",5.05795e-05\n")


# ---- a file of the report beside the published one


MD, CSV = "reports/tables/a.md", "reports/tables/a.csv"


def same(before: str, after: str, path: str = CSV, **more) -> bool:
    return not file_difference(path, before.encode(), after.encode(), **more)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("bertscore_f1,16,,0.43073", "bertscore_f1,16,,0.430729"),
        ("a,0.0500001", "a,0.0499999"),  # alone a last digit: the verdict beside it is text
        ("a,4.44831e-18", "a,4.44832e-18"),
        ("a,1.23457e+06", "a,1.23458e+06"),
        ("a,0", "a,-6.9e-18"),
        ("a,-0", "a,0"),
        ("a,1", "a,0.999999"),
        ('{"x": 0.43072998523712}', '{"x": 0.43072988}'),
    ],
)
def test_last_digits_are_no_difference(before, after):
    assert same(before, after)
    assert same(after, before)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a,0.0500001,no", "a,0.0499999,yes"),  # a verdict is text
        ("p,1e-12", "p,1e-05"),
        ("p,1e-12", "p,9e-07"),
        ("p,0.0131818", "p,0.0117877"),
        ("k,7", "k,8"),  # whole numbers are counts, seeds and ids
        ("n,1000000", "n,1000001"),
        ("a,0.5", "a,0.6"),
        ("a,0.125", "a,0.127"),
        ("a,0.5", "a,-0.5"),
        ("a,0.5", "a,nan"),
        ("a,0.5", "a,"),
        ("a,,0.5", "a,0.5,"),
        ("a,0.5\n", "a,0.5\r\n"),
        ("a,0.5\n", "a,0.5\nb,0.5\n"),
        ("a,0.5", "b,0.5"),
        ("a,0.5", "a,0.50x"),
        ("2026-11-26", "2026-11-27"),
        ("task/42", "task/43"),
        ("v1.23456", "v1.23457"),  # beside a letter
        ("3.11.4", "3.11.5"),  # two points: a version
        ("79c95fbd5924", "79c95fbd5925"),
        ("123456789012", "123456789013"),  # a hash without a letter
        ("012345678901", "12345678901"),
        ("12345678e901", "12345679e901"),  # a hash like a power of ten
        ("1234567890.5e9", "1234567890.5e8"),
        ("a,1e+999", "a,2e+999"),
        ("a,1e+99999999999999999999", "a,2e+99999999999999999999"),
    ],
)
@pytest.mark.parametrize("path", [CSV, MD])
def test_more_than_last_digits_is_a_difference(before, after, path):
    assert not same(before, after, path)
    assert not same(after, before, path)


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [
        ("| +0.014 |", "| +0.015 |", True),
        ("| −0.000 |", "| +0.000 |", True),
        ("& $-$0.000 &", "& +0.000 &", True),
        ("& $-$0.125 &", "& +0.125 &", False),
        ("| 19.22 |", "| 19.23 |", True),
        ("| 5.058e-05 |", "| 5.059e-05 |", True),
        ("| 5.058e-05 |", "| 3.723e-05 |", False),
        ("| +0.014 |", "| +0.016 |", False),
        ("| −0.014 |", "| +0.014 |", False),
        ("| &lt;.001 |", "| 0.001 |", False),
        ("| 0.5 |", "| 0.6 |", False),
        ("Python 3.11", "Python 3.12", False),
        ("| 16 |", "| 17 |", False),
    ],
)
@pytest.mark.parametrize("suffix", ["md", "tex", "html"])
def test_rounded_numbers_may_be_one_unit_of_a_thousandth_apart(before, after, wanted, suffix):
    assert same(before, after, f"reports/tables/a.{suffix}") is wanted


def test_a_csv_file_is_not_rounded_to_be_read():
    assert same("a,0.125", "a,0.126", MD)
    assert not same("a,0.125", "a,0.126", CSV)


def test_margins_of_near_ties_are_the_same_in_their_table_and_nowhere_else():
    row = "figure_of_speech_detection/42,105,{},79c95fbd5924"
    here, there, far = (row.format(margin) for margin in ("5.05795e-05", "3.72281e-05", "0.000123"))
    assert same(here, there, "reports/tables/near_ties.csv", margins=True)
    assert not same(here, there, "reports/tables/near_ties.csv")  # where a completion is another
    assert not same(here, far, "reports/tables/near_ties.csv", margins=True)
    assert not same(here, there, CSV, margins=True)


def test_margins_of_near_ties_are_the_same_on_the_page_in_their_table_and_nowhere_else():
    page = '<table class="x" id="near_ties"><td data-v="{}"></table><table id="power"><td data-v="{}"></table>'
    path = "reports/index.html"
    assert same(page.format("5.1e-05", "0.5"), page.format("3.7e-05", "0.5"), path, margins=True)
    assert not same(page.format("5.1e-05", "5.1e-05"), page.format("5.1e-05", "3.7e-05"), path, margins=True)
    assert 'id="near_ties"' in (ROOT / path).read_text()


def test_the_first_difference_is_named_by_its_line():
    assert difference("a,0.5\nb,7\n", "a,0.500001\nb,8\n") == "line 2: 7 -> 8"
    assert difference("a,0.5\nb,yes\n", "a,0.5\nb,no\n") == "line 2: another text"
    assert difference("a\nb\n", "a\n") == "line 2: another text"


def test_what_is_no_text_is_compared_byte_by_byte():
    assert file_difference("a.png", b"\x89PNG 0.5", b"\x89PNG 0.500001") == "other bytes"
    assert file_difference("a.csv", b"\xff0.5", b"\xff0.500001") == "other bytes"
    assert file_difference("a.parquet", b"0.5", b"0.5") == ""


numbers = st.floats(allow_nan=False, allow_infinity=False, width=64)


@over(numbers, st.sampled_from(["{:.6g}", "{!r}"]), st.sampled_from([CSV, MD, "a.svg", "a.json"]))
def test_one_ulp_is_never_a_difference(value, form, path):
    after = math.nextafter(value, math.inf)
    assume(math.isfinite(after) and not (value == int(value) and form == "{!r}" and abs(value) > 2**53))
    assert same(f"a,{form.format(value)},b", f"a,{form.format(after)},b", path)


@over(numbers, numbers)
def test_what_a_reader_of_four_digits_sees_is_always_a_difference(a, b):
    assume(abs(a - b) > 1.01e-4 * max(abs(a), abs(b)) + 1e-6 * max(abs(a), abs(b)) + 2e-9)
    assert not same(f"x,{a:.6g},y", f"x,{b:.6g},y")


@over(st.text("0123456789abcdef", min_size=12, max_size=64), st.data())
def test_another_hash_is_always_a_difference(text, data):
    at = data.draw(st.integers(0, len(text) - 1))
    other = text[:at] + data.draw(st.sampled_from("0123456789abcdef".replace(text[at], ""))) + text[at + 1 :]
    for path in (CSV, MD, "a.json", "a.svg"):
        assert not same(f'x,{text},"y"', f'x,{other},"y"', path)


@over(st.text("0123456789.eE+-−$,| \nab_", max_size=30), st.text("0123456789.eE+-−$,| \nab_", max_size=30))
def test_texts_that_pass_are_the_same_between_their_numbers(before, after):
    assert same(before, before)
    assert same(before, after) == same(after, before)
    if same(before, after, MD):
        assert NUMBER.split(before) == NUMBER.split(after)


def test_files_that_differ_in_last_digits_are_identical_and_counted(tmp_path, monkeypatch, capsys):
    files = {
        "reports/tables/a.csv": "a,0.43073\n", "reports/tables/b.csv": "b,7\n", "reports/tables/c.csv": "c,yes\n",
        "reports/figures/f.svg": "M 1.000001 2", "reports/figures/f.png": "x",
        "reports/figures/g.svg": "M 1.5 2", "reports/figures/g.png": "x", "reports/figures/h.png": "x",
        git.MARK: "",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(verify, "ROOT", tmp_path)
    assert {f.status for f in verify.table_findings("HEAD", IDENTICAL)} == {IDENTICAL}
    changed = {
        "reports/tables/a.csv": "a,0.430729\n", "reports/figures/f.svg": "M 1.000002 2", "reports/figures/f.png": "y"
    }  # fmt: skip
    for name, text in changed.items():
        (tmp_path / name).write_text(text)
    assert verify.say([], verify.table_findings("HEAD", IDENTICAL)) == 0
    said = capsys.readouterr().out
    assert "8 tables, figures and pages: 8 identical\n3 files differ in last digits" in said
    (tmp_path / "reports/tables/b.csv").write_text("b,8\n")
    (tmp_path / "reports/tables/c.csv").unlink()
    for name in ("g.svg", "g.png", "h.png"):
        (tmp_path / f"reports/figures/{name}").write_text("M 1.6 2")
    found = verify.table_findings("HEAD", IDENTICAL)
    assert {Path(f.name).name: f.notes[0] for f in found if f.status == DIFFERS} == {
        "b.csv": "line 1: 7 -> 8", "c.csv": "missing here", "g.svg": "line 1: 1.5 -> 1.6",
        "g.png": "line 1: 1.5 -> 1.6", "h.png": "other bytes",
    }  # fmt: skip
    assert verify.say([], found) == 4
    near = verify.table_findings("HEAD", NEAR_TIES)
    assert {Path(f.name).name: f.status for f in near} == {
        **dict.fromkeys(("a.csv", "f.svg", "f.png"), IDENTICAL), "c.csv": DIFFERS,  # missing
        **dict.fromkeys(("b.csv", "g.svg", "g.png", "h.png"), NEAR_TIES),
    }  # fmt: skip


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


def differing(found: list[Finding]) -> list[str]:
    return [f.name for f in found if f.status != IDENTICAL]


def test_the_same_run_gives_the_same_bytes(place, bundle, tmp_path):
    assert release.write(place, tmp_path / "b.zip").read_bytes() == bundle.read_bytes()


def test_no_dataset_text_but_what_a_completion_says(bundle, place):
    rows = [json.loads(line) for task in TASKS for line in made_up(task).splitlines()]
    for name, content in files_of(bundle).items():
        text = content.decode("utf-8", "replace")
        if name.startswith(CELLS):
            lines = [json.loads(line) for line in text.splitlines()]
            text = json.dumps([{**line, "completions": None} for line in lines])
        assert not [r for r in rows if r["input"] in text or any(f'"{o}"' in text for o in r["options"])], name


def test_the_metadata_is_an_ro_crate(bundle):
    files = files_of(bundle)
    found = json.loads(files[release.CRATE])
    assert found["@context"] == "https://w3id.org/ro/crate/1.3/context"
    entities = {entity["@id"]: entity for entity in found["@graph"]}
    assert len(entities) == len(found["@graph"])
    descriptor, root = entities["ro-crate-metadata.json"], entities["./"]
    assert descriptor["@type"] == "CreativeWork"
    assert descriptor["about"] == {"@id": "./"}
    assert descriptor["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.3"}
    assert root["@type"] == "Dataset"
    assert {"name", "description", "datePublished", "license"} <= set(root)
    pd.Timestamp(root["datePublished"])
    assert {part["@id"] for part in root["hasPart"]} == set(files) - {release.CRATE}
    for name in set(files) - {release.CRATE}:
        assert "File" in entities[name]["@type"]
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
    assert (found.status, found.notes) == (DIFFERS, ("params.yaml",))


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"no zip", lambda raw: raw[::-1]])
def test_a_damaged_archive_is_a_users_error(bundle, tmp_path, damage):
    (tmp_path / "t.zip").write_bytes(damage(bundle.read_bytes()))
    with pytest.raises(UserError, match="damaged or no release"):
        verify.check(tmp_path / "t.zip", "tables", [], 60, 0)


def edited(bundle: Path, honest: bool) -> bytes:
    """A cell whose first completion says more; honest: with the cell's hash of completions made anew as well."""
    head, *rows = (json.loads(line) for line in files_of(bundle)[CELL].decode().splitlines())
    rows[0]["completions"]["105"]["text"] += " and more"
    if honest:
        said = [[r["id"], {int(s): c["text"] for s, c in r["completions"].items()}] for r in rows]
        head["completions_sha256"] = digest(said)
    return "".join(json.dumps(line) + "\n" for line in (head, *rows)).encode()


def test_a_changed_completion_is_found_by_its_cell(bundle, place, tmp_path):
    path = tampered(bundle, tmp_path, **{CELL: edited(bundle, honest=False)})
    found = verify.check(path, "scores", given(place), 60, 0)
    assert differing(found) == ["llama_7b/social_iqa/closed_adv_few"]


def test_a_changed_completion_with_every_hash_made_anew_is_found_by_generating_it_again(bundle, place, tmp_path):
    path = tampered(bundle, tmp_path, **{CELL: edited(bundle, honest=True)})
    (_, sample) = verify.check(path, "sample", given(place), 1000, 0)
    assert sample.status == DIFFERS
    assert "48 of 48 completions generated again: 1 wrong" in sample.notes[0]
    assert "seed 105: another text" in sample.notes[1]


def test_a_changed_score_is_found_by_scoring_again(bundle, place, tmp_path):
    scores = pd.read_parquet(place / "data/scores.parquet")
    scores.loc[0, "exact_match"] = 1 - scores.loc[0, "exact_match"]
    raw = io.BytesIO()
    scores.to_parquet(raw, index=False)
    path = tampered(bundle, tmp_path, **{"data/scores.parquet": raw.getvalue()})
    first = scores.iloc[0]
    (found,) = [f for f in verify.check(path, "scores", given(place), 60, 0) if f.status != IDENTICAL]
    assert found.name == f"llama_7b/{first['task']}/{first['condition']}"
    assert found.notes[0].startswith(f"{first['example_id']}: exact_match is")


def test_other_weights_are_named_and_not_counted_as_wrong(bundle, place, tmp_path):
    tiny("llama", tmp_path / "weights", seed=1)
    words = [w for w in given(place) if not w.startswith("model.path")] + [f"model.path='{tmp_path / 'weights'}'"]
    with pytest.raises(UserError, match="not the weights or the settings of the release"):
        verify.check(bundle, "sample", words, 3, 0)


@pytest.mark.parametrize(("wrong", "m", "bound"), [(0, 60, 0.0487), (1, 60, 0.0766), (0, 1, 0.95), (3, 3, 1.0)])
def test_the_bound_is_clopper_pearsons(wrong, m, bound):
    """0 of 60: 1 - 0.05 ** (1 / 60). 1 of 60: the p at which at most 1 of 60 has probability 0.05."""
    assert Sample(m, 3840, wrong, 0, ()).bound == pytest.approx(bound, abs=5e-5)


def test_nothing_to_release_is_said(tmp_path):
    with pytest.raises(UserError, match="Make it: dvc repro"):
        release.members(tmp_path)


# ---- the real ones


@MADE
@pytest.mark.slow
def test_real_weights_on_one_thread_and_in_small_batches_give_the_published_completions():
    words = ["tasks=[social_iqa]", "conditions=[closed_adv_zero]", "token_budget=2048"]
    command = [sys.executable, "-m", "src.verify", "--recompute", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 cells: 1 identical" in done.stdout


@MADE
@pytest.mark.slow
def test_a_changed_score_of_the_real_release_is_found_in_the_tables_it_leads_to_and_no_other(tmp_path):
    bundle = release.write(ROOT, tmp_path / "a.zip")
    scores = pd.read_parquet(ROOT / collect.SCORES)
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
        "table analyses",
        "table power",
        "table audit",
    }
    assert not published_only & set(differing(found))
    assert published_only <= {f.name for f in found}
