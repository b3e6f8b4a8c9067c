"""The report: same frames, same bytes; every table in four forms; nothing from data becomes markup or a formula."""

import csv
import html
import io
import itertools
import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from src import report
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.frames import inert, write_csv
from src.base.metrics import EMERGENCE_COLUMNS, SERIES_KEY
from src.base.schema import Task
from src.base.verdict import WORDS
from src.pages import findings
from src.pages.tables import FORMATS, load_tables

EVIL = '<script>alert("x")</script>'
FORMULA = '=HYPERLINK("http://example.org")'
TASKS = ("kinds_of_stone", "old_riddles", EVIL)
AGREE = {"agree": "above", "agree_raw": "above_raw"}
SERIES = {"tiny": 1.2e8, "small": 1.5e9, "middle": 6e9, "largest": 1.75e11}


def cell(source: str, model: str, task: str, number: int, **more: object) -> dict[str, object]:
    """One row of cells.parquet with plausible numbers."""
    n, k = 40, (7 * number) % 41
    row = {
        "source": source, "suite": "pilot" if source == "own" else None, "model": model, "prompt": "closed",
        "condition": "closed_zero" if source == "own" else None, "shots": 0, "task": task, "metric": "exact_match",
        "family": "gpt", "n": n, "k": k, "accuracy": k / n, "ci_low": max(0, k / n - 0.1),
        "ci_high": min(1, k / n + 0.1), "chance": 0.25, "chance_scored": 0.25, "trivial": 0.3, "trivial_cv": None,
        "p": 0.0004 * number, "p_below": 0.9, "p_short": 0.8, "p_trivial_short": 0.7,
        "p_holm": 0.01, "above_raw": k / n > 0.25, "above": k > 20,
        "unparsed": 3 if source == "own" else None, "gates": "duplicates" if number % 5 == 0 else "", "primary": True,
        "fingerprint": f"{number:012x}", "data_sha256": f"{number:064x}", "completions_sha256": f"{number + 99:064x}",
        "weights": FORMULA if source == "own" else None,
    }  # fmt: skip
    return {**row, **more}


def all_cells() -> pd.DataFrame:
    published = [("published", model, task) for task in TASKS for model in SERIES]
    own = [("own", "local_model", task) for task in TASKS]
    return pd.DataFrame([cell(*key, number) for number, key in enumerate(published + own, start=1)])


def emergence(cells: pd.DataFrame) -> pd.DataFrame:
    extra = {
        "predictable": "inconclusive",
        "forecast": 0.4,
        "residual": -0.1,
        "residual_low": -0.2,
        "residual_high": 0.1,
    }
    verdicts = {"paper_above": True, "paper_predictable": None, "paper_emergent": False, "emergent": False}
    frame = cells[cells["model"].isin(["largest", "local_model"])].assign(
        **extra, **verdicts, emergent_paper_rule=False
    )
    return frame.reindex(columns=list(EMERGENCE_COLUMNS))


def scale(cells: pd.DataFrame) -> pd.DataFrame:
    frame = cells.assign(parameters=cells["model"].map(SERIES).fillna(1.3e8), fitted=0.4, forecast=None)
    frame = frame.assign(residual_low=None, residual_high=None)
    frame.loc[frame["model"] == "largest", ["forecast", "residual_low", "residual_high"]] = [0.4, -0.1, 0.1]
    kept = [*SERIES_KEY, "family", "model", "parameters", "n", "accuracy", "ci_low", "ci_high", "chance"]
    kept += ["chance_scored", "trivial", "forecast", "residual_low", "residual_high", "fingerprint", "fitted"]
    return frame[kept]


def agreement() -> pd.DataFrame:
    row = {"rule": "holm", "verdict": "above", "n": 3, "agree": 2, "undecided": 0, "kappa": None, "differ": TASKS[0]}
    return pd.DataFrame([row])


def overlap(cells: pd.DataFrame) -> pd.DataFrame:
    sides = {}
    for side, model in (("left", "small"), ("right", "middle")):
        rows = cells[cells["model"] == model].set_index("task")
        kept = [
            "model",
            "shots",
            "n",
            "accuracy",
            "ci_low",
            "ci_high",
            "chance",
            "p",
            "above",
            "above_raw",
            "fingerprint",
        ]
        sides[side] = rows[kept].add_prefix(f"{side}_")
    frame = sides["left"].join(sides["right"]).reset_index()
    agree = {name: frame[f"left_{rule}"] == frame[f"right_{rule}"] for name, rule in AGREE.items()}
    return frame.assign(**agree, source="published")


def overlap_summary() -> pd.DataFrame:
    shared = {"left_model": "small", "right_model": "middle", "rule": "holm", "n": 3, "agree": 2, "expected": 1.5}
    shared |= {"tasks": 3, "both": 1, "power": 0.5}
    rows = [{"figure": "figure2", "percentile": 50.0}, {"figure": "figure2_partner_zero", "percentile": None}]
    return pd.DataFrame([{**shared, **row, "kappa": 0.3, "hypergeometric_p": 0.2} for row in rows])


def figure5(cells: pd.DataFrame) -> pd.DataFrame:
    rows = cells[cells["model"].isin(["small", "middle", "largest"])]
    return rows.assign(agree_above=rows["task"] != TASKS[0], agree_above_raw=True)


def contrasts() -> pd.DataFrame:
    pair = {"kind": "few_minus_zero", "prompt": "closed", "n_tasks": 22, "differs": False, "equivalent": False}
    sides = {f"{side}_{what}": f"{side}_{what}" for side in "xy" for what in ("model", "condition")}
    numbers = {
        name: 0.01 * i
        for i, name in enumerate(("mean_diff", "median_diff", "ci_low", "ci_high", "t", "t_p", "hedges_g"))
    }
    tests = dict.fromkeys(("wilcoxon_p", "wilcoxon_p_holm", "pratt_p", "bf10", "tost_p", "tost_p_holm"), 0.5)
    counts = {"tasks_that_can_show_equivalence": 3, "n_differs": 0}
    verdicts = [{"differs": True}, {"equivalent": True}, {}]
    return pd.DataFrame([{**pair, **sides, **numbers, **tests, **counts, **verdict} for verdict in verdicts])


def power(cells: pd.DataFrame) -> pd.DataFrame:
    rows = cells[cells["model"] == "largest"].assign(tested=0.25, min_detectable=0.4, min_detectable_bonferroni=0.5)
    return rows.assign(**{f"power_{n}{how}": 0.3 for n in (5, 10) for how in ("", "_bonferroni")})


CHOICES = {"bar": ("chance", "content_free"), "prompt": ("closed", "closed_adv")}
STATEMENTS = (
    ("main", "", "RQ1", "supported", 0.4), ("tasks", TASKS[0], "RQ1", "supported", 0.3),
    ("tasks", TASKS[1], "RQ1", "depends", 0.2),
    ("tasks", EVIL, "RQ1", "contradicted", -0.1), ("pairs", "a against b", "RQ4", "undetermined", 0.0),
    ("pairs", "a against c", "RQ4", "not comparable", None),
)  # fmt: skip
"""Claim, item, question, word and value of the audit's rows."""


def audit(cells: pd.DataFrame) -> pd.DataFrame:
    text = dict.fromkeys(("place", "said", "interval", "correction", "detectable_of", "rule", "why", "flip"), FORMULA)
    powers = ("power_observed", "power_matters", "power_none")
    tests = dict.fromkeys(("p_for", "p_against", "detectable", "matters", *powers), 0.05)
    counts = dict.fromkeys(("holds_in", "opposite_in", "neither_in", "no_result_in"), 1)
    empty = dict.fromkeys(("reason", "pooled", "reply", "bar", "turns_on", "turns_share", "cannot"))
    empty |= dict.fromkeys(("pooled_estimate", "pooled_low", "pooled_high", "flip_low", "flip_high"))
    rows = [
        {
            "claim": claim, "item": item, "question": question, "word": word, "value": value, "inference": claim,
            "statement": f"{item or claim}: {word}", "low": value and value - 0.1, "high": value and value + 0.1,
            "reference": 0.0, "unit": "difference", "n": 20, "analyses": 3, "fingerprint": cells["fingerprint"].iloc[0],
            **text, **tests, **counts, **empty, "turns_on": "bar" if word == "depends" else None,
        }
        for claim, item, question, word, value in STATEMENTS
    ]  # fmt: skip
    return pd.DataFrame(rows)


def analyses() -> pd.DataFrame:
    """Under the rule each statement has the result of its word; with another bar it is the opposite, or nothing."""
    by_rule = {"supported": 1, "contradicted": -1, "depends": 1, "undetermined": 0, "not comparable": None}
    rows = []
    for claim, item, _, word, _ in STATEMENTS:
        for bar, prompt in itertools.product(*CHOICES.values()):
            switched = None if by_rule[word] is None else -by_rule[word]
            outcome = by_rule[word] if bar == "chance" else switched
            taken = {"bar": bar, "prompt": prompt} if claim != "main" else {"bar": bar}
            primary = (bar, prompt) == ("chance", "closed")
            rows.append({
                "claim": claim, "item": item, "taken": json.dumps(taken), "analysis": str(taken), "primary": primary,
                "value": 0.1, "low": 0.0, "high": 0.2, "p_for": 0.5, "p_against": 0.5, "outcome": outcome,
                "reason": "on_the_floor" if outcome is None else None, "n": 20, "counted": True,
            })  # fmt: skip
    return pd.DataFrame(rows).drop_duplicates(["claim", "item", "taken"])


def inferences(rows: pd.DataFrame) -> pd.DataFrame:
    words = {"main": "supported", "tasks": "depends", "pairs": "undetermined"}
    counts = dict.fromkeys(("supported", "contradicted", "depends", "undetermined", "not_comparable"), 1)
    kept = rows.drop_duplicates("claim")[["inference", "question", "statement"]]
    return kept.assign(word=kept["inference"].map(words), rows=1, **counts)


def joint() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "claim": "main",
                "analyses": 2,
                "holds": 1,
                "median": 0.4,
                "expected": 0.5,
                "p_joint": 0.2,
                "of": "shuffled tasks",
            }
        ]
    )


def project(root: Path) -> Path:
    """A project with made-up frames and the repository's own conf."""
    cells = all_cells()
    frames = {
        "cells": cells,
        "emergence": emergence(cells),
        "scale": scale(cells),
        "overlap": overlap(cells),
        "overlap_summary": overlap_summary(),
        "agreement": agreement(),
        "overlap_figure5": figure5(cells),
        "contrasts": contrasts(),
        "power": power(cells),
        "../audit/audit": audit(cells),
        "../audit/analyses": analyses(),
        "../audit/inferences": inferences(audit(cells)),
        "../audit/joint": joint(),
    }
    (root / "data/audit").mkdir(parents=True)
    for name, frame in frames.items():
        path = root / f"data/stats/{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.to_parquet(path)
    for folder in ("conf/frame", "conf/table", "conf/figure", "data/published"):
        shutil.copytree(ROOT / folder, root / folder)
    (root / "dvc.yaml").write_text("stages: {stats: {cmd: python -m src.stats, outs: [data/stats]}}")
    shutil.copy(ROOT / "params.yaml", root / "params.yaml")
    ledger = root / "data/outputs/local_model/ledger.json"
    ledger.parent.mkdir(parents=True)
    entry = {
        "model": "local_model",
        "task": "old_riddles",
        "condition": "closed_few",
        "status": "failed",
        "reason": EVIL,
    }
    ledger.write_text(json.dumps([entry]))
    return root


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = project(tmp_path_factory.mktemp("report"))
    report.build(root)
    return root


def outputs(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted((root / "reports").rglob("*")) if p.is_file()}


def test_two_runs_give_the_same_bytes(built: Path) -> None:
    before = outputs(built)
    report.build(built)
    assert outputs(built) == before
    assert {Path(name).suffix for name in before} == {".csv", ".md", ".tex", ".html", ".svg", ".png", ".json"}


def test_every_table_has_the_same_rows_in_four_forms(built: Path) -> None:
    for table in load_tables(built):
        stem = built / "reports/tables" / table.name
        if table.optional and not (built / table.frame).exists():
            continue
        rows = len(list(csv.reader(io.StringIO(stem.with_suffix(".csv").read_text())))) - 1
        md = [line for line in stem.with_suffix(".md").read_text().splitlines() if line.startswith("|")]
        tex = stem.with_suffix(".tex").read_text().split(r"\endlastfoot")[1]
        body = re.search(r"<tbody.*?</tbody>", stem.with_suffix(".html").read_text(), re.DOTALL)
        assert body
        assert rows > 0, table.name
        assert (len(md) - 2, tex.count(r"\\"), body[0].count("<tr>")) == (rows, rows, rows), table.name


def test_table2_has_every_column_of_the_definition(built: Path) -> None:
    header = (built / "reports/tables/table2_emergence.csv").read_text().splitlines()[0].split(",")
    assert set(EMERGENCE_COLUMNS) <= set(header)


def test_a_missing_frame_names_the_stage_that_makes_it(tmp_path: Path) -> None:
    root = project(tmp_path)
    (root / "data/stats/agreement.parquet").unlink()
    with pytest.raises(UserError, match=r"agreement\.parquet is missing.*dvc repro stats"):
        report.build(root)


def test_an_error_leaves_the_last_report_as_it_was(built: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(built, root)
    before = outputs(root)
    path = root / "data/stats/overlap.parquet"
    pd.read_parquet(path).drop(columns="task").to_parquet(path)
    with pytest.raises(UserError, match="task"):
        report.build(root)
    assert outputs(root) == before


def test_a_table_is_one_yaml(built: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(built, root)
    spec = {
        "title": "Largest", "caption": "Only one.", "frame": "data/stats/cells.parquet", "where": "model == 'largest'",
        "sort": ["-accuracy"], "columns": ["task", {"name": "accuracy", "header": "Right"}],
    }  # fmt: skip
    (root / "conf/table/largest.yaml").write_text(yaml.safe_dump(spec))
    report.build(root)
    found = pd.read_csv(root / "reports/tables/largest.csv")
    assert len(found) == len(TASKS)
    assert found["accuracy"].is_monotonic_decreasing
    assert 'id="largest"' in (root / "reports/index.html").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": ["tusk"]}, "tusk"),
        ({"colums": []}, "colums"),
        ({"columns": [{"name": "task", "format": "shiny"}]}, "shiny"),
    ],
)
def test_a_mistake_in_a_table_is_named(built: Path, tmp_path: Path, change: dict[str, object], message: str) -> None:
    root = tmp_path / "copy"
    shutil.copytree(built, root)
    spec = {"title": "T", "caption": "C", "frame": "data/stats/cells.parquet", "columns": ["task"], **change}
    (root / "conf/table/new.yaml").write_text(yaml.safe_dump(spec))
    with pytest.raises(UserError, match=message):
        report.build(root)


def test_text_from_data_is_never_markup(built: Path) -> None:
    page = (built / "reports/index.html").read_text()
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert") >= 3
    for path in (built / "reports/tables").glob("*.html"):
        assert "<script>alert" not in path.read_text(), path.name
    for path in (built / "reports/tables").glob("*.md"):
        assert "<script" not in path.read_text(), path.name


def test_no_csv_cell_is_a_formula(built: Path) -> None:
    weights = pd.read_csv(built / "reports/tables/own_runs.csv")["weights"]
    assert list(weights) == [f"'{FORMULA}"] * len(TASKS)


def test_a_written_count_keeps_its_digits_where_others_are_missing(tmp_path: Path) -> None:
    write_csv(pd.DataFrame({"tokens": [12345678, None], "said": ["=1", "a,b"]}), tmp_path / "a.csv", digits=12)
    assert (tmp_path / "a.csv").read_text() == 'tokens,said\n12345678,\'=1\n,"a,b"\n'


@pytest.mark.parametrize(
    ("value", "safe"),
    [("-1", "'-1"), ("-1.5 -2e-05", "-1.5 -2e-05"), ("@x", "'@x"), (-1.5, -1.5), ("a=b", "a=b"), (None, None)],
)
def test_only_text_is_made_inert(value: object, safe: object) -> None:
    assert inert(value) == safe


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        ("p", 0.0004, "<.001"),
        ("p", 0.03, "0.030"),
        ("signed", -0.1, "−0.100"),
        ("verdict", False, "no"),
        ("count", 1949, "1,949"),
    ],
)
def test_formats(form: str, value: float, text: str) -> None:
    assert FORMATS[form](value) == text


def test_each_number_carries_its_source(built: Path) -> None:
    page = (built / "reports/index.html").read_text()
    row = all_cells().query("model == 'local_model'").iloc[0]
    title = f"own · fingerprint {row['fingerprint']} · data {row['data_sha256'][:12]}"
    assert f'<tr title="{title}" data-go="#cell-{row["fingerprint"]}">' in page
    assert f'<tr id="cell-{row["fingerprint"]}">' in page


def test_the_page_names_suite_weights_and_gaps(built: Path) -> None:
    page = re.sub(r"\s+", " ", (built / "reports/index.html").read_text())
    params = yaml.safe_load((built / "params.yaml").read_text())
    assert f"suite {params['suite']}: at most {params['limit']} examples a task" in page
    assert f"weights {html.escape(FORMULA, quote=False)}".replace('"', "&#34;") in page
    assert "1 cell is not done" in page
    assert "local_model, old_riddles, closed_few: failed" in page


def test_metrics_count_what_the_frames_say(built: Path) -> None:
    found = json.loads((built / "reports/metrics.json").read_text())
    own = all_cells().query("source == 'own'")
    closed = found["own"]["local_model"]["closed_zero"]
    assert closed["accuracy"] == pytest.approx(own["accuracy"].mean())
    assert closed["above_raw"] == int(own["above_raw"].sum())
    assert closed["unparsed_share"] == pytest.approx(3 / 40)
    assert found["published"]["table2"]["paper_above"] == len(TASKS)
    assert found["published"]["table2"]["tests"] == len(TASKS)


def test_metrics_and_page_count_inferences_apart_from_rows(built: Path) -> None:
    counts = json.loads((built / "reports/metrics.json").read_text())["audit"]
    assert {word: n for word, n in counts["inferences"].items() if n} == {
        "supported": 1,
        "depends": 1,
        "undetermined": 1,
    }
    words = [word for _, _, _, word, _ in STATEMENTS]
    assert counts["rows"] == {word: words.count(word) for word in WORDS}
    page = re.sub(r"\s+", " ", (built / "reports/index.html").read_text())
    assert f"makes {len(STATEMENTS)} statements that can be checked" in page
    assert "rest on 3 independent inferences. The published scores support 1 of these and contradict none." in page


def test_every_statement_stands_on_the_page_with_its_word(built: Path) -> None:
    page = (built / "reports/index.html").read_text()
    for claim, item, _, word, _ in STATEMENTS:
        text = f"{item or claim}: {word}".replace("_", " ")
        assert html.escape(text[0].upper() + text[1:], quote=False).replace('"', "&#34;") in page
    assert page.count('<li class="statement"') == len(STATEMENTS)


def test_an_audit_that_has_not_run_leaves_the_rest_of_the_page(tmp_path: Path) -> None:
    root = project(tmp_path)
    shutil.rmtree(root / "data/audit")
    report.build(root)
    assert "The audit has not been run yet." in (root / "reports/index.html").read_text()
    assert "audit" not in json.loads((root / "reports/metrics.json").read_text())


def test_a_task_without_a_verdict_is_in_no_count_of_an_overlap() -> None:
    rows = overlap(all_cells())
    rows = rows.assign(agree=pd.array([True, False, None], dtype="boolean"))
    found = findings.overlap_summary(rows, overlap_summary())
    assert (found["agree"], found["tasks"], found["untested"]) == (1, 2, [rows["task"][2]])


def test_nothing_from_outside_is_loaded(built: Path) -> None:
    page = (built / "reports/index.html").read_text()
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", page)
    assert "@import" not in page


def test_a_project_without_own_runs_still_reports(tmp_path: Path) -> None:
    root = project(tmp_path)
    for name in ("cells", "emergence", "scale"):
        path = root / f"data/stats/{name}.parquet"
        pd.read_parquet(path).query("source == 'published'").to_parquet(path)
    report.build(root)
    assert "No own cell has been computed yet." in (root / "reports/index.html").read_text()
    assert json.loads((root / "reports/metrics.json").read_text())["own"] == {}


def test_mean_accuracy_and_mean_chance_are_of_the_same_tasks() -> None:
    """A task without a chance level is in neither mean and in no denominator; it is counted beside them."""
    cells = all_cells()
    rows = cells[cells["source"] == "own"].reset_index(drop=True)
    rows.loc[0, ["chance", "accuracy"]] = [None, 1.0]
    found = findings.own_summary(rows)["local_model"]["conditions"]["closed_zero"]
    assert (found["tasks"], found["untested"]) == (len(rows) - 1, 1)
    assert found["accuracy"] == pytest.approx(rows["accuracy"].iloc[1:].mean(), abs=1e-6)
    assert found["above_raw"] == rows["above_raw"].iloc[1:].sum()


def test_controls_are_told_by_the_metric_of_most_tasks_with_how_many_these_are() -> None:
    head = {"control": "input_swapped", "condition": "c", "prompt": "closed"}
    metric = {"a": "exact_match", "b": "likelihood", "d": "likelihood"}
    alone = [{"task": task, "metric": name, "n_tasks": 1} for task, name in (*metric.items(), ("a", "likelihood"))]
    whole = [{"task": "all tasks", "metric": "exact_match", "n_tasks": 1}]
    whole += [{"task": "all tasks", "metric": "likelihood", "n_tasks": 2}]
    rows = pd.DataFrame([head | each for each in alone + whole])
    (found,) = findings.of_controls(rows, {task: Task(metric={"closed": name}) for task, name in metric.items()})
    assert (found["task"], found["metric"], found["n_tasks"]) == ("all tasks", "likelihood", 2)


def test_controls_of_another_kind_alone_are_no_row_of_the_page():
    """A suite may hold paraphrases and no shifted options."""
    rows = pd.DataFrame(
        {"control": ["wording"], "condition": ["closed_few_paraphrased"], "task": ["own"], "prompt": ["closed"],
         "metric": ["exact_match"]}
    )  # fmt: skip
    assert findings.of_controls(rows, {}) == []
