"""What README says is what the tracked results say, and what it names is there."""

import csv
import json
import re

import pytest
import yaml

from src.base.files import ROOT
from tests.test_architecture import MAY_IMPORT, SRC

README = (ROOT / "README.md").read_text()


def test_the_findings_in_the_readme_are_the_tracked_ones():
    found = json.loads((ROOT / "reports/metrics.json").read_text())["published"]["table2"]
    said = " ".join(README.split())
    assert f"| {found['paper_above']} of {found['tasks']} | {found['above_raw']} by a bare comparison, " in said
    assert f"{found['above']} corrected for {found['tests']} tests" in said
    assert f"| of these emergent | {found['paper_emergent']} | {found['emergent']} by a rule" in said


def table(name):
    with (ROOT / f"reports/tables/{name}.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_questions_in_the_readme_are_the_tracked_ones():
    found = json.loads((ROOT / "reports/metrics.json").read_text())["published"]["figure2"]
    assert (found["agree"], found["tasks"]) == (14, 20)  # codenames has no chance level: no verdict on either side
    questions, curves = (table(name) for name in ("questions", "specifications"))
    by_name = {(row["question"], row["criterion"]): row for row in questions}
    few, memory = by_name["RQ2", "kappa_few_minus_zero"], by_name["RQ3", "memorisable_with_skill"]
    pairs = {name: row for (question, name), row in by_name.items() if question == "RQ4"}
    pair = pairs["davinci against text_davinci_001, closed"]
    memorised = [row["holds"] == "True" for row in curves if row["claim"] == "rq3_memorisable"]

    def p(row):
        return f"{float(row['p']):.3f}".replace("0.", ".")

    def said(number, sign=""):
        return f"{float(number):{sign}.2f}".replace("0.", ".").replace("-", "−")

    assert f"| {found['agree']} of {found['tasks']}; kappa over zero-shot {said(few['value'], '+')} |" in README
    assert f"| {said(few['low'])} to {said(few['high'])} | {p(by_name['RQ2', 'kappa'])} |" in README
    assert f"rank correlation {said(memory['value'])}, in {sum(memorised)} of {len(memorised)} analyses" in README
    assert f"analyses | | {p(memory)} |" in README
    by_prompt = {way: [row["verdict"] for name, row in pairs.items() if name.endswith(way)] for way in PROMPTS}
    closed, lettered = (f"in {words.count('follows')} of {len(words)}" for words in by_prompt.values())
    gain = f"GPT-3 against text-davinci-001 {said(pair['value'])}"
    assert f"{closed} pairs closed, {lettered} lettered; {gain} |" in README
    assert f"| {said(pair['low'])} to {said(pair['high'])} | {p(pair)} |" in README


PROMPTS = (", closed", ", closed_adv")


def test_no_p_value_stands_in_the_column_of_an_interval():
    rows = [line.split(" | ") for line in README.splitlines() if line.startswith("| ") and "95 % interval" not in line]
    assert not [row for row in rows if len(row) == 5 and re.search(r"p\s*[=<]|^\.\d+$", row[3])]


def test_the_audit_in_the_readme_is_the_tracked_one():
    found = json.loads((ROOT / "reports/metrics.json").read_text())["audit"]
    said = " ".join(README.split())
    assert f"Of {sum(found.values())} statements" in said
    assert f"bear out {found['follows']}, contradict {found['contradicted']}," in said
    assert f"leave {found['within noise']} within noise" in said
    assert f"cannot check {found['cannot be checked']}:" in said


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
