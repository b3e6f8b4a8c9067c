"""What README says is what the tracked results say, and what it names is there."""

import csv
import json
import re

import pytest
import yaml

from src.base.files import ROOT
from src.base.verdict import NO_NUMBER, SUPPORTED, WORDS
from tests import findings
from tests.test_architecture import MAY_IMPORT, SRC

README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("part", sorted(findings.PLACES))
def test_what_is_said_of_the_audit_is_what_the_tracked_tables_say(part):
    """`python -m tests.findings` writes it."""
    assert (ROOT / findings.PLACES[part]).read_text() == findings.written(part)


def test_the_opening_counts_every_inference_once():
    said = re.search(
        r"\*\*(\d+) independent inferences\*\* rest under (\d+) statements: (.+?) \(", " ".join(README.split())
    )
    words = [row["word"] for row in findings.table("inferences")]
    counted = {word: int(n) for word, n in (each.rsplit(" ", 1) for each in said[3].split(", "))}
    assert counted == {word: words.count(word) for word in WORDS if word in words and word != NO_NUMBER}
    assert int(said[1]) == sum(counted.values())
    rows = [row["word"] for row in findings.table("audit")]
    assert int(said[2]) == len(rows) - rows.count(NO_NUMBER)


def test_the_opening_names_every_inference_outside_table_2():
    inferences = {row["inference"] for row in findings.table("inferences")}
    assert {name for name in inferences if "table2/" not in name} == {*findings.ONE, *findings.MANY}


def test_the_opening_shows_single_tasks_for_the_paper_as_well_as_others():
    by_task = {(row["item"], row["claim"]): row["word"] for row in findings.table("audit")}
    words = {by_task[each] for each in findings.SINGLE}
    assert SUPPORTED in words
    assert words - {SUPPORTED}


def test_no_p_value_stands_in_the_column_of_an_interval():
    rows = [line.split(" | ") for line in findings.findings().splitlines()[2:] if line.startswith("| ")]
    assert {len(row) for row in rows} == {6}
    assert not [row for row in rows if re.search(r"p\s*[=<]|^[<.]", row[3])]
    assert not [row for row in rows if " to " in row[4]]


def test_the_letter_names_every_inference_that_is_not_supported():
    letter = (ROOT / "docs/letter.md").read_text()
    for row in findings.table("inferences"):
        named = f"- **{row['inference']}** ({row['word']}): " in letter
        assert named == (row["word"] not in (SUPPORTED, NO_NUMBER)), row["inference"]


def test_the_letter_asks_for_data_for_every_inference_that_it_names():
    asked = (ROOT / "docs/letter.md").read_text().split("## What data")[1].split("## The inferences")[0]
    for name in findings.unsupported():
        assert name in asked or f"{name.split('/')[0]}/..." in asked, name


def test_a_flip_in_the_letter_is_the_one_of_the_audit():
    row = {"flip": "3 examples right would make it “depends”; -0.1 examples right would make it “supported” (it is 2)."}
    assert findings.flipped(row) == "“depends” at 3, “supported” at −0.1 examples right (now 2)"
    assert findings.flipped({"flip": "No mean difference changes the word."}) == ""


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", README))))
def test_links_of_the_readme_resolve(link):
    assert (ROOT / link).exists()


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_the_readme_of_a_folder_is_short_and_names_the_folders_that_may_import_it(folder):
    text = (SRC / folder / "README.md").read_text()
    assert len(text.splitlines()) <= 25
    sentences = " ".join(text.split()).split(". ")
    who = [line for line in sentences if re.search(r"\bimports? (?:it|them)\b|\bimported by\b", line)]
    assert who, "a sentence says who may import it"
    named = {name for line in who for name in re.findall(r"`(?:src[./])?(\w+)/?`", line)} & set(MAY_IMPORT)
    users = {name for name, below in MAY_IMPORT.items() if folder in below}
    if "every folder" in " ".join(who):
        named |= set(MAY_IMPORT) - {folder}
    assert named == users


def test_every_target_of_the_makefile_does_something():
    text = (ROOT / "Makefile").read_text()
    (targets,) = re.findall(r"^\.PHONY: (.+)$", text, re.MULTILINE)
    for name in targets.split():
        assert re.search(rf"^{name}:.*\n\t\S", text, re.MULTILINE), f"make {name} would do nothing and say so nowhere"


def test_every_stage_depends_on_files_that_exist_or_are_made():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for name, stage in stages.items():
        for dep in stage.get("do", stage).get("deps", []):
            if not dep.startswith("data/") and "${" not in dep:
                assert (ROOT / dep).exists(), f"{name}: {dep}"


def test_what_a_stage_runs_is_among_its_dependencies():
    """A change in a module reruns the stages whose numbers it can move."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for name in ("prepare", "hashes", "collect", "stats", "audit", "fidelity", "report"):
        module = stages[name]["cmd"].split()[2].replace(".", "/") + ".py"
        assert module in stages[name]["deps"], name


def test_scoring_is_no_dependency_of_inference():
    infer = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["infer"]["do"]
    assert not [dep for dep in infer["deps"] if dep.startswith("src/scoring")]


def test_the_effects_in_the_deviations_are_the_measured_ones():
    text = (ROOT / "docs/deviations.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|$", text.split("## Measured")[1], re.MULTILINE)
    with (ROOT / "data/reference/deviations.csv").open() as file:
        found = [row for row in csv.DictReader(file) if row["metric"] == "exact_match"]
    order = [("closed", "False"), ("closed", "True"), ("closed_adv", "False"), ("closed_adv", "True")]
    assert {name for name, _ in rows} == {row["switch"] for row in found}
    for switch, cells in rows:
        for said, (prompt, few) in zip(cells.split(" | "), order, strict=True):
            (row,) = [r for r in found if (r["switch"], r["prompt"], r["few_shot"]) == (switch, prompt, few)]
            numbers = [f"{float(row[name]):+.3f}".replace("-", "−") for name in ("mean_diff", "ci_low", "ci_high")]
            moved = f"{numbers[0]} ({numbers[1]} to {numbers[2]}), {row['cells_moved']} of {row['cells']}"
            assert said == (moved if row["cells_moved"] != "0" else "0"), (switch, prompt, few)


def test_the_benchmark_in_the_readme_is_the_tracked_one():
    found = json.loads((ROOT / "reports/benchmarks/engine.json").read_text())["rows"]
    for row in found:
        if row["against"] == "lm_eval":
            ratio = f"{row['ratio_median']:.1f} x ({row['ratio_min']:.1f} to {row['ratio_max']:.1f})"
            assert ratio in README, row
