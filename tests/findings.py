"""What README and docs/letter.md say of the audit, written from the tracked tables.

`python -m tests.findings` writes both between their marks. tests/test_docs.py compares.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

import yaml

from src.base.files import ROOT
from src.base.verdict import CONTRADICTED, DEPENDS, NO_NUMBER, NOT_COMPARABLE, SUPPORTED, WORDS

Row = Mapping[str, str]

SIDES = ("p_for", "p_against")
START, END = "<!-- {}: python -m tests.findings -->\n", "<!-- end of {} -->"
PLACES = {"findings": "README.md", "statements": "docs/letter.md"}

ONE = {  # claims of one statement: how README calls them
    "table2_count": "tasks above the baseline: largest base model, zero-shot (Table 2)",
    "rq1_any": "tasks with an emergent ability (RQ1)",
    "figure2_count": "tasks on which tuned zero-shot and base few-shot agree about the baseline (Figure 2)",
    "figure5_count": "tasks on which three tuned models do (Figure 5)",
    "rq2_overlap": "both solve the same tasks, beyond what their numbers of tasks give (RQ2): kappa",
    "rq2_specific": "tuned zero-shot is more like base few-shot than like base zero-shot (RQ2): gain in kappa",
    "few_shot_boost": "exemplars raise the accuracy of GPT-J",
    "few_shot_no_change": "exemplars change nothing for Flan-T5-large",
    "rq3_memorisable": "the more of a task can be memorised, the better (RQ3): rank correlation",
}
MANY = {  # inferences of many statements: how README calls them, and the pooled estimate beside them
    "rq4/closed": ("exemplars add more to a base model than to its tuned twin, options in the text (RQ4)", "closed"),
    "rq4/closed_adv": (
        "exemplars add more to a base model than to its tuned twin, lettered options (RQ4)",
        "closed_adv",
    ),
    "figure2": ("Figure 2, task by task", None),
    "metrics": ("metrics rank the tasks alike", None),
    "table4": ("the metric gives what grading by hand gives (Table 4)", None),
}
SINGLE = (  # single tasks of Table 2 that speak for the paper, against it, or for neither
    ("rhyming", "table2_above"),
    ("social_iqa", "table2_above"),
    ("gsm8k", "table2_above"),
    ("hindu_knowledge", "table2_predictable"),
    ("hindu_knowledge", "table2_emergent"),
)
POOLED = {
    "jump": "how far it lies above the line in size, mean over tasks",
    "skill": "correlation over tasks: tuned zero-shot with base few-shot",
    "gain": "the first correlation less the second",
    "memory": "slope of skill in ten memorisable examples of 50, largest base model, zero-shot",
    "exemplars": "what exemplars add to base models less what they add to tuned ones",
}


def table(name: str) -> list[dict[str, str]]:
    """The rows of reports/tables/<name>.csv. A text that begins with a sign stands behind an apostrophe there."""
    with (ROOT / f"reports/tables/{name}.csv").open(encoding="utf-8") as file:
        return [{key: value.removeprefix("'") for key, value in row.items()} for row in csv.DictReader(file)]


def signed(number: str | float, digits: int = 2) -> str:
    """`+.47`, `−.03`."""
    return f"{float(number):+.{digits}f}".replace("0.", ".", 1).replace("-", "−")


def points(number: str | float) -> str:
    """A share in points: `−0.6`."""
    return f"{100 * float(number):+.1f}".replace("-", "−")


def p_of(number: str) -> str:
    """`.047`, `< .001`, or a dash."""
    if not number:
        return "–"
    return "< .001" if float(number) < 0.001 else f"{float(number):.3f}".replace("0.", ".", 1)


def ps(p_for: str, p_against: str, correction: str) -> str:
    """Both p values and what they are corrected for."""
    if not (p_for or p_against):
        return "–"
    over = re.match(r"(\S+) over (\d+)", correction)
    return f"{p_of(p_for)} / {p_of(p_against)} ({f'{over[1]}, {over[2]}' if over else 'one test'})"


FORMS: Mapping[str, tuple[Callable[[str], str], str]] = {
    "accuracy": (lambda share: f"{100 * float(share):.1f}", " %"),
    "difference": (points, " points"),
}
"""By unit of a row, how its number is printed and what stands behind it."""


def number(row: Row) -> tuple[str, str]:
    """The estimate and its interval, by the unit of the row."""
    if not row["value"]:
        return "–", "–"
    if row["unit"] == "count":
        return f"{float(row['value']):.0f} of {float(row['n']):.0f}", "–"
    form, unit = FORMS.get(row["unit"], (signed, ""))
    interval = f"{form(row['low'])} to {form(row['high'])}{unit}" if row["low"] else "–"
    level = "" if row["interval"].startswith("95") or not row["low"] else f" ({row['interval'].split(',')[0]})"
    return form(row["value"]) + unit, interval + level


def counted(words: Sequence[str]) -> str:
    """`contradicted 2, undetermined 4`, in the order of WORDS."""
    found = Counter(words)
    return ", ".join(f"{word} {found[word]}" for word in WORDS if found[word])


def line(*cells: str) -> str:
    """A row of a table."""
    return "| " + " | ".join(cells) + " |"


def pooled(what: str, item: str = "") -> Row:
    """The estimate of the hierarchical model, gated cells left out."""
    (row,) = [
        row
        for row in table("pooled")
        if (row["estimate_of"], row["item"], row["gates_act"]) == (POOLED[what], item, "True")
    ]
    return row


def estimate(row: Row) -> str:
    """A pooled estimate with its interval, in points where it has them."""
    if row["points"]:
        return f"{points(row['points'])} points ({points(row['points_low'])} to {points(row['points_high'])})"
    return f"{signed(row['estimate'])} ({signed(row['low'])} to {signed(row['high'])})"


def findings() -> str:
    """The table of README and its paragraph."""
    audit, inferences = table("audit"), table("inferences")
    by_claim = {row["claim"]: row for row in audit if not row["item"]}
    by_task = {(row["item"], row["claim"]): row for row in audit if row["item"]}
    by_inference = {row["inference"]: row for row in inferences}
    out = [
        line(
            "the paper's claim",
            "the paper",
            "here, from its released scores",
            "95 % interval",
            "p for / p against",
            "word",
        ),
        line(*["---"] * 6),
    ]
    for claim, called in ONE.items():
        row = by_claim[claim]
        out.append(
            line(called, row["said"], *number(row), ps(row["p_for"], row["p_against"], row["correction"]), row["word"])
        )
    for name, (called, item) in MANY.items():
        rows = [row for row in audit if row["inference"] == name]
        least = {side: min((row[side] for row in rows if row[side]), key=float, default="") for side in SIDES}
        here, interval = counted([row["word"] for row in rows]), "–"
        if item:
            found = pooled("exemplars", item)
            here += f"; pooled {points(found['points'])} points"
            interval = f"{points(found['points_low'])} to {points(found['points_high'])} points"
        said = "; ".join(f"{n} × {each}" for each, n in Counter(row["said"] for row in rows).items())
        smallest = "smallest of each: " + ps(**least, correction=rows[0]["correction"])
        out.append(line(called, said, here, interval, smallest, by_inference[name]["word"]))
    for task, claim in SINGLE:
        row = by_task[task, claim]
        out.append(
            line(
                f"{task} (Table 2)",
                row["said"],
                *number(row),
                ps(row["p_for"], row["p_against"], row["correction"]),
                row["word"],
            )
        )
    return "\n".join([*out, "", *paragraph(by_claim, by_task, inferences)]) + "\n"


def paragraph(
    by_claim: Mapping[str, Row], by_task: Mapping[tuple[str, str], Row], inferences: Sequence[Row]
) -> list[str]:
    """What the table does not say: counts of inferences, joint tests, pooled estimates."""
    counts = json.loads((ROOT / "reports/metrics.json").read_text())["audit"]
    independent = [row for row in inferences if row["word"] != NO_NUMBER]
    named = {
        word: "; ".join(naming(row) for row in independent if row["word"] == word)
        for word in (SUPPORTED, CONTRADICTED, DEPENDS, NOT_COMPARABLE)
    }
    words = ", ".join(f"{word} {n}" for word in WORDS if (n := counts["inferences"].get(word)))
    statements = sum(counts["rows"].values()) - counts["rows"].get(NO_NUMBER, 0)
    joint = {row["claim"]: row for row in table("joint")}
    any_one, gsm8k = by_claim["rq1_any"], by_task["gsm8k", "table2_above"]

    jump, skill, more, slope, added = (estimate(pooled(what)) for what in POOLED)
    return [
        f"**{len(independent)} independent inferences** rest under {statements} statements: {words}"
        " ([inferences](reports/tables/inferences.md), [statements](reports/tables/audit.md)).",
        *(f"- {word.capitalize()}: {names}." for word, names in named.items() if names),
        "",
        "Both p values of a row take the same correction. “For” and “against” are tests of their own: a large p of one"
        " is no evidence for the other. Beside the single tests:",
        f"- RQ1: some task is emergent in {any_one['holds_in']} of {any_one['analyses']} analyses, and each is shown"
        f" not to be in {any_one['opposite_in']}. Pooled, the largest base model lies {jump} from the line through the"
        " smaller ones.",
        f"- RQ2: {together(joint.get('rq2_overlap'))} Pooled, the skills of tuned zero-shot and base few-shot correlate"
        f" with {skill} over tasks. Less the correlation with base zero-shot, {more} are left.",
        f"- RQ3: {together(joint.get('rq3_memorisable'))} Pooled, ten more memorisable examples of 50 add {slope}.",
        f"- RQ4: {together(joint.get('rq4_gain'))} Pooled, exemplars add {added} more to base models.",
        f"- gsm8k: {gsm8k['word']}. The paper's verdict holds in {gsm8k['holds_in']} of {gsm8k['analyses']} analyses"
        f" that give a result, its opposite in {gsm8k['opposite_in']}.",
    ]


def naming(row: Row) -> str:
    """An inference, and how many of its statements have its word."""
    called = MANY.get(row["inference"], (re.sub(r"^\d+ statements: ", "", row["statement"]),))[0]
    share = f" ({row[row['word'].replace(' ', '_')]} of {row['rows']})" if row["rows"] != "1" else ""
    return called + share


def together(row: Row | None) -> str:
    """The joint test of all analyses of a claim. None where its data cannot be permuted."""
    if row is None:
        return "its data cannot be permuted, so it has no joint test."
    p = p_of(row["p_joint"])
    return (
        f"over {row['analyses']} analyses together the median is {signed(row['median'])}, that of permuted data"
        f" {signed(row['expected'])} (joint p {p if p.startswith('<') else '= ' + p})."
    )


def unsupported() -> dict[str, list[Row]]:
    """By inference that is not supported and has a number, its statements that are not supported."""
    rows = table("audit")
    return {
        each["inference"]: [row for row in rows if row["inference"] == each["inference"] and row["word"] != SUPPORTED]
        for each in table("inferences")
        if each["word"] not in (SUPPORTED, NO_NUMBER)
    }


SHORT = {  # how the letter calls the three verdicts of Table 2
    "table2_above": "above the baseline",
    "table2_predictable": "predictable",
    "table2_emergent": "emergent",
}
FLIP = re.compile(r"(-?[\d.]+) ([^;]+?) would make it “(.+?)”")


def flipped(row: Row) -> str:
    """What would change the word of a statement: `“contradicted” at 24, “depends” at 41 examples right (now 34)`."""
    found = FLIP.findall(row["flip"])
    now = re.search(r"\(it is (.+?)\)", row["flip"])
    if not found or not now:
        return ""
    return (
        ", ".join(f"“{word}” at {at}" for at, _, word in found).replace("-", "−")
        + f" {found[0][1]} (now {now[1].replace('-', '−')})"
    )


def instead(row: Row, choices: Mapping[str, str]) -> str:
    """What would change it where no number does."""
    if row["word"] == NOT_COMPARABLE:
        return "scores that can be compared"
    if row["word"] == CONTRADICTED and row["unit"] == "count":
        return "another list of the tasks that were counted"
    turns = row["turns_on"]
    return f"a decision on {choices.get(turns, turns)}" if turns else "more examples or tasks"


def statements() -> str:
    """The list of the letter: an inference a line, with what would change each of its statements."""
    heads = {row["inference"]: row for row in table("inferences")}
    choices = yaml.safe_load((ROOT / "conf/table/_page.yaml").read_text(encoding="utf-8"))["choices"]
    out = []
    for name, rows in unsupported().items():
        changes, others = [], defaultdict(list)
        for row in [each for each in rows if each["word"] != NO_NUMBER]:
            called = SHORT.get(row["claim"], row["item"])
            if flipped(row):
                changes.append(f"{called}: {flipped(row)}" if called else flipped(row))
            else:
                others[instead(row, choices)].append(called)
        changes += [what + (f" ({', '.join(names)})" if any(names) else "") for what, names in others.items()]
        head = heads[name]
        out.append(f"- **{name}** ({head['word']}): {head['statement']}. What would change it: {'; '.join(changes)}.")
    return "\n".join(out) + "\n"


WRITERS = {"findings": findings, "statements": statements}


def written(name: str) -> str:
    """The document with its part written anew."""
    text = (ROOT / PLACES[name]).read_text(encoding="utf-8")
    start, end = START.format(name), END.format(name)
    return text[: text.index(start) + len(start)] + WRITERS[name]() + text[text.index(end) :]


if __name__ == "__main__":
    for each, place in PLACES.items():
        (ROOT / place).write_text(written(each), encoding="utf-8")
