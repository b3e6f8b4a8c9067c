"""Two sets of per-example results side by side: which is better, by how much, and is it more than noise?

A and B are each a folder or a file: samples of lm-evaluation-harness (--log_samples), logs of inspect (*.eval), runs of
HELM, samples of Every Eval Ever, a csv or parquet with an item and a score, cells of this project (a folder, or one
file), a release. The items that both have are compared: exact McNemar, or sign-flips of groups where scores are graded
or items share a group; Holm over the tasks; the difference that could have been found; the items that flipped.

What cannot be told is asked, never guessed: which metric, which model, which setting. docs/external.md has the rest.

Exit code: 0 compared, 1 could not be compared, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src import release
from src.base import grid, metrics
from src.base.cli import command, stage
from src.base.errors import UserError
from src.base.files import ROOT, whole
from src.base.frames import as_declared, read_frame, write_csv
from src.cell.file import cell_files, files_in, is_cell, load_encoder, read_cell, score
from src.foreign import formats
from src.foreign.align import WAYS, Aligned, Item, align, items_of
from src.foreign.choose import Choice, Paired, Side, Unit, paired, side_of
from src.foreign.imported import COLUMNS, records_of
from src.foreign.record import Fields, Record, shown_text
from src.question import examples
from src.question.prompts import example_id

if TYPE_CHECKING:
    import pandas as pd

SCORES = "data/scores.parquet"


@dataclass(frozen=True)
class Compared:
    """One unit of both sides, aligned."""

    label: str
    units: tuple[Unit, Unit]
    metric: str
    aligned: Aligned


def read(path: Path, fields: Fields, wanted: Sequence[str]) -> list[Record]:
    """The records of a path, whatever it is. wanted: the metrics that are asked for by name.

    Raises UserError where it is damaged, or no results of examples.
    """
    if path.suffix == ".zip":
        return released(path)
    if path.suffix == ".parquet":
        frame = read_frame(path.parent, path.name)
        if set(frame) >= COLUMNS:
            return records_of(frame.astype(object).where(frame.notna(), None).to_dict("records"))
        if "fingerprint" in frame:
            return scored(frame)
    cells = own_cells(path)
    if cells:
        return [record for cell in cells for record in answered(cell, wanted)]
    records = formats.read(path, fields).records
    if unjudged := [r for r in records if r.score != r.score]:
        raise UserError(f"{path}: item {unjudged[0].item} has a pick, and neither score nor target. Add one of these, "
                        f"or import it, which knows this project's targets: python -m src.external {path}")  # fmt: skip
    return list(records)


def own_cells(path: Path) -> list[Path]:
    """The cells of this project that a path is or holds; [] where it holds none."""
    if path.is_file():
        return [path] if path.suffix == ".jsonl" and is_cell(path) else []
    found = [*files_in(path), *cell_files(path)] if path.is_dir() else []
    return [each for each in found if is_cell(each)]


def answered(path: Path, wanted: Sequence[str]) -> list[Record]:
    """The records of one cell: each accuracy of each answer. BERTScore, which takes seconds, where it is asked for."""
    import pandas as pd

    head, answers = read_cell(path)
    scores = score(head, answers, load_encoder if metrics.BERT in wanted else None)
    names = ("example_id", "group", "seed", "n_options", "target", *metrics.ACCURACIES, *metrics.PICKS.values())
    rows = pd.DataFrame([{name: getattr(each, name) for name in names} for each in scores])
    parts = rows["example_id"].map(example_id)
    kept = {"example_id": parts.str[0], "variant": parts.str[1]}
    return scored(rows.assign(**kept, **head.chosen(("model", "task", "condition", "shots", "data_sha256"))))


def scored(scores: pd.DataFrame) -> list[Record]:
    """The records of rows as data/scores.parquet has them."""
    import pandas as pd

    texts = {task: known_texts(str(task)) for task in scores["task"].unique()}
    picks = [name for name in metrics.PICKS.values() if name in scores]
    found = []
    for row in scores.astype(object).where(scores.notna(), None).to_dict("records"):
        seed = "" if row["variant"] is None or pd.isna(row["variant"]) else f"~{row['variant']}"
        text, options = texts[row["task"]].get(row["example_id"], ("", ()))
        shared = {
            "model": row["model"], "task": row["task"], "item": row["example_id"], "text": text, "options": options,
            "content": f"{row['data_sha256']} {row['example_id']}", "target": row["target"], "prompt": row["condition"],
            "shots": row["shots"], "repeat": f"{row['seed']}{seed}", "group": row["group"],
        }  # fmt: skip
        for name in metrics.ACCURACIES:
            if row.get(name) is not None:
                pick = metrics.PICKS.get(name)
                known = {"pick": row[pick], "picked_known": True} if pick in picks else {}
                found.append(Record(**shared, **known, metric=name, score=float(row[name])))
    return found


def known_texts(task: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """The question and options of each example of a prepared task; {} where it is not prepared here."""
    path = ROOT / examples.TASKS / f"{task}.jsonl"
    if not path.exists():
        return {}
    return {each.id: (each.input, each.options) for each in examples.parsed(path.read_bytes(), path)}


def released(bundle: Path) -> list[Record]:
    """The records of a release. Raises UserError where it is damaged."""
    with tempfile.TemporaryDirectory() as folder:
        if wrong := release.unpacked(bundle, Path(folder)):
            raise UserError(f"{bundle} is damaged: {wrong[0]} is not what its manifest says. Get it again")
        return scored(read_frame(Path(folder), SCORES))


def check_two(a: Path, b: Path) -> None:
    """Raises UserError where one side is missing, or both are the same."""
    for side in (a, b):
        if not side.exists():
            raise UserError(f"{side} does not exist. Name a file or folder of results: {formats.WORDS}")
    if a.resolve() == b.resolve():
        raise UserError(f"A and B are the same: {a}. Name two sets of results")
    if digests(a) == digests(b):
        raise UserError(f"{a} and {b} hold the same bytes, so there is nothing to compare. Is one a copy of the other?")


def digests(path: Path) -> list[str]:
    """The sha256 of each file of a path, in any order."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sorted(hashlib.sha256(each.read_bytes()).hexdigest() for each in files)


def units_of(a: Side, b: Side, plan: Paired, by: str | None) -> tuple[list[Compared], list[str]]:
    """(what is compared, a sentence for each unit without a common item). Raises UserError where no item is common."""
    several = {task for (task, _), _ in plan.units if sum(left[0] == task for left, _ in plan.units) > 1}
    found, apart = [], []
    for left, right in plan.units:
        mine, theirs = a.units[left], b.units[right]
        aligned = align(items_of(mine), items_of(theirs), by)
        name = left[0] if left[0] == right[0] else f"{left[0]} = {right[0]}"
        label = f"{name}, {left[1]}" if left[0] in several else name
        metric = " | ".join(dict.fromkeys((mine[0].metric, theirs[0].metric)))
        if aligned.pairs:
            found.append(Compared(label, (left, right), metric, aligned))
        else:
            apart.append(
                f"{label}: no item in common, by {aligned.by} ({len(aligned.only_a)} in A, {len(aligned.only_b)} in B)"
            )
    if not found:
        raise UserError("; ".join(apart[:3]) + ". If ids number the same items on both sides, say so: --by id. If a "
                        "field holds the question, name it: --text FIELD")  # fmt: skip
    return found, apart


def groups_of(pairs: Sequence[tuple[Item, Item]]) -> tuple[str, ...]:
    """The cluster of each pair, by its first item: items that share a group on either side, and what these share."""
    import numpy as np
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    names = [
        tuple(f"{side}{item.group}" for side, item in zip("ab", pair, strict=True) if item.group) for pair in pairs
    ]
    place = {name: len(pairs) + i for i, name in enumerate(dict.fromkeys(each for many in names for each in many))}
    edges = np.array([(i, place[name]) for i, many in enumerate(names) for name in many], dtype=int).reshape(-1, 2)
    size = len(pairs) + len(place)
    _, cluster = connected_components(coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), (size, size)))
    first: dict[int, str] = {}
    return tuple(first.setdefault(int(code), x.id) for code, (x, _) in zip(cluster, pairs, strict=False))


def comparison(found: Sequence[Compared], alpha: float) -> pd.DataFrame:
    """The frame `comparison`."""
    import numpy as np

    from src.statistics.setting import SEED
    from src.statistics.two_sides import Scores, side_by_side

    sides = [
        Scores(
            each.label, each.units[0][0], np.array([x.score for x, _ in each.aligned.pairs]),
            np.array([y.score for _, y in each.aligned.pairs]), groups_of(each.aligned.pairs),
        )
        for each in found
    ]  # fmt: skip
    rows = side_by_side(sides, alpha, SEED)
    counts = [(len(e.aligned.only_a), len(e.aligned.only_b), e.aligned.unclear) for e in found]
    beside: dict[str, list[Any]] = {
        "metric": [e.metric for e in found],
        "setting_a": [e.units[0][1] or None for e in found],
        "setting_b": [e.units[1][1] or None for e in found],
        "matched_by": [e.aligned.by for e in found],
        **{name: [count[i] for count in counts] for i, name in enumerate(("only_a", "only_b", "unclear"))},
    }
    all_of: dict[str, Any] = {name: "; ".join(dict.fromkeys(beside[name])) for name in ("metric", "matched_by")}
    all_of |= {name: sum(beside[name]) for name in ("only_a", "only_b", "unclear")}
    extra = len(rows) - len(found)
    return as_declared("comparison", rows.assign(**{k: v + [all_of.get(k)] * extra for k, v in beside.items()}))


def flipped(found: Sequence[Compared], with_text: bool) -> pd.DataFrame:
    """The frame `flipped`, the largest differences first; with_text: the question beside its hash."""
    import pandas as pd

    rows: list[dict[str, Any]] = [
        {
            "task": each.label, "item_a": x.id, "item_b": y.id, "score_a": x.score, "score_b": y.score,
            "better": "A" if x.score > y.score else "B", "text": shown_text(x.first.text) or shown_text(y.first.text),
        }
        for each in found for x, y in each.aligned.pairs if x.score != y.score
    ]  # fmt: skip
    rows.sort(key=lambda row: (row["task"], -abs(row["score_a"] - row["score_b"]), row["better"]))
    frame = pd.DataFrame(rows)
    declared = as_declared("flipped", frame.drop(columns="text") if len(frame) else frame)
    return declared.assign(text=frame["text"]) if with_text and len(frame) else declared


@dataclass(frozen=True)
class Outcome:
    """Everything that a comparison says."""

    title: str
    says: tuple[str, ...]
    rows: pd.DataFrame  # frame `comparison`
    flips: pd.DataFrame  # frame `flipped`


def compared(a: Path, b: Path, given: argparse.Namespace) -> Outcome:
    """The whole comparison. Raises UserError where it cannot be made, or a choice is left to the user."""
    check_two(a, b)
    alpha = float(grid.params()["alpha"])
    metric, model, setting = (twice(getattr(given, name)) for name in ("metric", "model", "setting"))
    fields = Fields(given.text, given.group)
    metrics_of = [tuple(words.split(";")) if words else () for words in metric]
    left, right = (
        side_of(read(path, fields, metrics_of[i]), Choice(name, model[i], metrics_of[i], setting[i]))
        for i, (name, path) in enumerate((("A", a), ("B", b)))
    )
    plan = paired(left, right, names_of(given.task))
    found, apart = units_of(left, right, plan, given.by)
    rows = comparison(found, alpha)
    says = (
        f"A: {left.model} ({a})",
        f"B: {right.model} ({b})",
        *settings_said(rows, len(found)),
        *left_out(found),
        *(f"Not compared: {each}." for each in (*plan.alone, *apart)),
        f"Difference: B − A, with a 95 % interval. p is two-sided, Holm over {len(found)} "
        f"{'task' if len(found) == 1 else 'rows of tasks'}; the rows over all tasks are tests of their own.",
    )
    return Outcome(f"{left.model} and {right.model}", says, rows, flipped(found, given.show_text))


def twice(values: Sequence[str] | None) -> tuple[str | None, str | None]:
    """(for A, for B): one value is for both."""
    if not values:
        return None, None
    return values[0], values[-1]


def names_of(pairs: Sequence[str]) -> dict[str, str]:
    """A=B of --task. Raises UserError where a word is none."""
    names = {}
    for pair in pairs:
        left, equals, right = pair.partition("=")
        if not (left and equals and right):
            raise UserError(f"--task {pair}: write the task's name in A, =, and its name in B, e.g. --task boolq=BoolQ")
        names[left] = right
    if len(set(names.values())) < len(pairs):
        raise UserError(f"--task {' '.join(pairs)}: a task is named twice. Name each once")
    return names


def settings_said(rows: pd.DataFrame, tasks: int) -> list[str]:
    """One sentence where the two sides put some task differently: their scores then differ for that, too."""
    asked = rows.head(tasks).fillna({"setting_a": "unnamed", "setting_b": "unnamed"})
    other = asked[asked["setting_a"] != asked["setting_b"]]
    if other.empty:
        return []
    shown = list(dict.fromkeys(f"A {a}, B {b}" for a, b in zip(other["setting_a"], other["setting_b"], strict=True)))
    return [f"Asked otherwise on {len(other)} of {len(asked)} tasks, so a difference can come from that: "
            f"{'; '.join(shown[:3])}."]  # fmt: skip


def left_out(found: Sequence[Compared]) -> list[str]:
    """What was not matched, and by what the rest was."""
    a, b, unclear = (sum(getter(e.aligned) for e in found) for getter in
                     (lambda x: len(x.only_a), lambda x: len(x.only_b), lambda x: x.unclear))  # fmt: skip
    by = ", ".join(dict.fromkeys(each.aligned.by for each in found))
    n = sum(len(each.aligned.pairs) for each in found)
    also = f", {unclear} of them because several items could be meant" if unclear else ""
    return [f"Items matched by {by}: {n:,}; left out: {a:,} only in A, {b:,} only in B{also}."]


def show(outcome: Outcome, items: int) -> None:
    """Print the comparison: some of its columns; the files have all."""
    from rich.console import Console
    from rich.table import Table

    from src.pages.comparison import columns_of
    from src.pages.tables import NUMERIC, shown

    chosen = (
        "task", "metric", "n", "accuracy_a", "accuracy_b", "mean_diff", "ci_low", "ci_high", "a_better", "b_better",
        "p", "p_holm", "detectable",
    )  # fmt: skip
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    print(*outcome.says, sep="\n")
    columns = [column for column in columns_of("comparison", outcome.rows) if column.name in chosen]
    table = Table(box=None)
    for column in columns:
        table.add_column(column.header, justify="right" if column.format in NUMERIC else "left", overflow="fold")
    for line in shown(outcome.rows, columns).itertuples(index=False):
        table.add_row(*map(_plain, line))
    console.print(table)
    print(f"Items scored differently: {len(outcome.flips):,}.")
    for task, part in outcome.flips.groupby("task", sort=False) if items and len(outcome.flips) else ():
        for side in ("A", "B"):
            mine = part[part["better"] == side]
            names = "; ".join(flip_words(row) for row in mine.head(items).to_dict("records"))
            if len(mine):
                print(f"  {task}, {side} better ({len(mine):,}): {names}{' ...' if len(mine) > items else ''}")


def flip_words(row: Mapping[str, Any]) -> str:
    """An item of a list: its id, both where they differ, and its text where it is shown."""
    name = row["item_a"] if row["item_a"] == row["item_b"] else f"{row['item_a']} = {row['item_b']}"
    text = " ".join(str(row.get("text") or "").split())
    return f"{name}: {text}" if text else name


def _plain(text: Any) -> Any:
    """A text that rich shows as it is: brackets in it are no markup."""
    from rich.text import Text

    return Text(str(text))


def write(outcome: Outcome, csv: Path | None, html: Path | None) -> list[Path]:
    """The files that are asked for. Beside a csv lies one of the items that flipped."""
    written = []
    if csv:
        flips = csv.with_name(f"{csv.stem}.flipped{csv.suffix}")
        write_csv(outcome.rows, csv)
        write_csv(outcome.flips, flips)
        written += [csv, flips]
    if html:
        from src.pages.comparison import page

        tables = [("By task", "comparison", outcome.rows), ("Items that flipped", "flipped", outcome.flips)]
        with whole(html) as part:
            part.write_text(page(outcome.title, outcome.says, tables), encoding="utf-8")
        written.append(html)
    return written


TWICE: Mapping[str, str] = {
    "metric": "the metric; two words: that of A and that of B; 'acc;f1': the one of these that a task has",
    "model": "the model, where a side holds several; two words: of A and of B",
    "setting": "the setting (prompt and shots), where a side has several; two words: of A and of B",
}
"""Options of one word for both sides, or two."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = command(
        "compare", __doc__, "out/model_a out/model_b --metric acc", "runs/old.csv runs/new.csv --html compared.html",
        "data/outputs/one data/outputs/two --metric exact_match",
        "logs/a.eval out/model_b --metric choice acc --task mine=mmlu",
    )  # fmt: skip
    arguments.add_argument("a", type=Path, metavar="A", help="a folder or file of results")
    arguments.add_argument("b", type=Path, metavar="B", help="another one")
    for name, words in TWICE.items():
        arguments.add_argument(f"--{name}", nargs="+", action=Two, help=words)
    arguments.add_argument("--task", action="append", default=[], metavar="A=B", help="a task that B names otherwise")
    arguments.add_argument(
        "--by", choices=tuple(WAYS), help="match items by this alone; default: the surest that both have"
    )
    arguments.add_argument("--text", metavar="FIELD", help="the field of an item that holds its question")
    arguments.add_argument("--group", metavar="FIELD", help="the field that items of one cluster share, e.g. a passage")
    arguments.add_argument("--csv", type=Path, metavar="FILE", help="write the table, and beside it FILE.flipped")
    arguments.add_argument("--html", type=Path, metavar="FILE", help="write both as one page")
    arguments.add_argument("--items", type=int, default=5, help="flipped items printed for each side of a task (5)")
    arguments.add_argument(
        "--show-text", action="store_true", help="show questions, too: for your eyes, mind their licence"
    )
    return arguments


class Two(argparse.Action):
    """At most two words."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Keeps the words, or ends with wrong usage."""
        if len(values) > 2:
            parser.error(f"{option_string} takes one word for both sides, or two")
        setattr(namespace, self.dest, values)


def main() -> None:
    """`python -m src.compare A B`. A user's mistake is one line on stderr and exit code 1."""
    given = parser().parse_intermixed_args()
    with stage("compare"):
        outcome = compared(given.a, given.b, given)
        show(outcome, given.items)
        print(*write(outcome, given.csv, given.html), sep="\n", end="")


if __name__ == "__main__":
    main()
