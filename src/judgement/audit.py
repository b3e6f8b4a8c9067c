"""Claims and scores -> the frames of the audit: a row a statement, a row an analysis, a row an inference."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from src.base.errors import UserError
from src.base.verdict import NO_NUMBER, NOT_COMPARABLE, word_counts
from src.judgement.claims import Claim, written
from src.judgement.family import HOLM, Family, corrected
from src.judgement.joint import COLUMNS as JOINT
from src.judgement.joint import joint
from src.judgement.rows import SIDES, Words, analyses, cannot, flipping_tasks, flips, judged
from src.judgement.scores import IN, PROMPTS, Scores
from src.judgement.word import family_word
from src.statistics.items import NAN

ANALYSIS = (
    "claim", "item", "taken", "analysis", "primary", "counted", "value", "low", "high", "p_for", "p_against", "outcome",
    "reason", "n",
)  # fmt: skip
STATEMENT = (
    "claim", "item", "question", "inference", "statement", "place", "said", "word", "value", "low", "high", "interval",
    "reference", "bar", "unit", "p_for", "p_against", "correction", "n", "detectable", "detectable_of",
    "power_observed", "power_matters", "matters", "power_none", "holds_in", "opposite_in", "neither_in", "no_result_in",
    "analyses", "turns_on", "turns_share", "reason", "pooled", "pooled_estimate", "pooled_low", "pooled_high", "why",
    "flip", "flip_low", "flip_high", "cannot", "rule", "reply", "fingerprint",
)  # fmt: skip
WIDEST = 0.5
"""The largest mean difference that is tried to see what a test can show."""
INFERENCE = (
    "inference", "question", "statement", "word", "rows", "supported", "contradicted", "depends", "undetermined",
    "not_comparable",
)  # fmt: skip


def frames(claims: Sequence[Claim], scores: Scores, pooled: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """audit, analyses, inferences and joint. pooled: data/stats/pooled.parquet, estimates of the hierarchical model."""
    statements: list[dict[str, Any]] = []
    every: list[dict[str, Any]] = []
    together: list[dict[str, Any] | None] = []
    for claim in claims:
        families = claim.families(scores)
        found = analyses(families, scores.alpha)
        every += [{"claim": claim.name, **row} for row in found]
        statements += rows(claim, families, found, scores, pooled)
        if claim.permuted:
            together.append(joint(claim.name, claim.permuted, families, scores.alpha, scores.setting.seed))
    audit = pd.DataFrame(statements, columns=list(STATEMENT))
    return {
        "audit": audit,
        "analyses": pd.DataFrame(every, columns=list(ANALYSIS)),
        "inferences": inferences(audit),
        "joint": pd.DataFrame([each for each in together if each], columns=list(JOINT)),
    }


def rows(
    claim: Claim, families: Sequence[Family], found: Sequence[Mapping[str, Any]], scores: Scores, pooled: pd.DataFrame
) -> list[dict[str, Any]]:
    """One row (STATEMENT) for each item of a claim."""
    rules = [family for family in families if family.rule]
    out = []
    for rule in rules:
        for item in rule.items:
            of_item = [row for row in found if row["item"] == item]
            out.append(
                _row(claim, rule, [each for each in families if item in each.items], item, of_item, scores, pooled)
            )
    return out


def _row(
    claim: Claim, rule: Family, families: Sequence[Family], item: str, of_item: Sequence[Mapping[str, Any]],
    scores: Scores, pooled: pd.DataFrame,
) -> dict[str, Any]:  # fmt: skip
    this = next(row for row in of_item if row["primary"])
    result = judged(of_item)
    up = rule.some or bool(rule.rows.loc[item, "up"])
    said = "if_no" if claim.two_sided and not up else "if_yes"
    knows = {name: NAN if value is None else value for name, value in this.items()}
    pair, _, prompt = item.rpartition(", ")
    formats = {short: words for words, short in PROMPTS.items()}
    knows |= {"item": item, "claim": claim.name, "prompt": prompt, "pair": pair, "format": formats.get(prompt, prompt)}
    knows |= _sides(this, up) | effects(rule, item) | dict(rule.facts(item) if rule.facts and not rule.some else {})
    beside = _pooled(claim, item, rule, scores, pooled, knows)
    alone = rule.power and not rule.some and this["outcome"] is not None
    power = dict(rule.power(item, max(rule.tests, 1))) if rule.power and alone else {}
    holm = f"Holm over {rule.tests} {claim.corrected}" if claim.corrected and rule.correction == HOLM else "none"
    turned = _flips(claim, families, item, result["word"], knows, scores.alpha)
    shown = {name: this[name] for name in ("value", "low", "high", "p_for", "p_against", "n")}
    if claim.unit == "count":
        shown |= {"p_for": None, "p_against": None} if rule.correction != HOLM else {}
    return {
        "claim": claim.name, "item": item, "question": claim.question, "place": claim.place,
        "inference": written(claim, claim.inference, knows), "said": claim.says[said],
        "statement": written(claim, claim.statement[said], knows).replace("_", " "), **shown,
        "interval": claim.interval, "unit": claim.unit, "rule": claim.rule, "reply": claim.reply,
        "reference": _named(claim.reference, knows), "bar": _named(claim.bar, knows),
        "correction": holm, "detectable_of": claim.detectable_of or None, **power, **result, **beside, **turned,
        "why": _why(claim, result, knows, of_item), "fingerprint": knows.get("fingerprint"),
    }  # fmt: skip


def _why(
    claim: Claim, result: Mapping[str, Any], knows: Mapping[str, Any], of_item: Sequence[Mapping[str, Any]]
) -> str:
    """The numbers behind a word. Without a result of the rule: the reason, and what all cells give."""
    if result["rule_gives"] is not None:
        return written(claim, claim.why, knows)
    reason = str(result["reason"])
    kept = _with_all(of_item)
    if kept is None or kept["outcome"] is None:
        return f"{reason[:1].upper()}{reason[1:]}."
    numbers = written(claim, "{value:+.3f} ({p_for:p} for the claim, {p_against:p} for its opposite)", {
        name: NAN if kept[name] is None else kept[name] for name in ("value", "p_for", "p_against")})  # fmt: skip
    return f"{reason[:1].upper()}{reason[1:]}. With all cells: {SIDES[kept['outcome']]}, {numbers}."


def _with_all(of_item: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The analysis that differs from the rule only in that it keeps the cells that failed a gate."""
    rule = next(json.loads(row["taken"]) for row in of_item if row["primary"])
    wanted = rule | {"gates": IN}
    return next((row for row in of_item if "gates" in rule and json.loads(row["taken"]) == wanted), None)


def _named(name: str | None, knows: Mapping[str, Any]) -> float | None:
    """A number, or what a row knows under a name."""
    if name is None:
        return None
    try:
        found = float(knows[name]) if name in knows else float(name)
    except (TypeError, ValueError):
        raise UserError(
            f"conf/claim/{knows['claim']}.yaml: {name!r} is no number, and no name that a row knows: "
            f"{', '.join(sorted(knows))}"
        ) from None
    return None if found != found else found


def _sides(this: Mapping[str, Any], up: bool) -> dict[str, float]:
    """p_for and p_against as sides of the affirmative claim, whatever the paper says."""
    p_for, p_against = (NAN if this[name] is None else this[name] for name in ("p_for", "p_against"))
    return {"p_for_agree": p_for if up else p_against, "p_for_disagree": p_against if up else p_for,
            "p_for": p_for, "p_against": p_against}  # fmt: skip


def effects(rule: Family, item: str) -> dict[str, float]:
    """The corrected p of an effect (p_effect) and that it is too small to matter (p_small), and the effect's sign."""
    if rule.some:
        return {"p_effect": NAN, "p_small": NAN, "sign": 1.0}
    at, arrays = rule.rows.index.get_loc(item), corrected(rule.arrays, rule.correction)
    names = {"p_effect": "effect", "p_small": "small", "sign": "sign"}
    return {name: float(arrays[column][at]) for name, column in names.items()}


def _pooled(
    claim: Claim, item: str, rule: Family, scores: Scores, pooled: pd.DataFrame, knows: Mapping[str, Any]
) -> dict[str, Any]:
    """The estimate of the hierarchical model beside a row, and a sentence where it finds another effect."""
    here = pooled[(pooled["estimate_of"] == claim.pooled) & (pooled["item"] == item) & pooled["gates_act"].astype(bool)]
    here = here.dropna(subset=["estimate"])
    if claim.pooled is None or here.empty:
        return {}
    found = here.iloc[0]
    shown = {f"pooled_{name}": float(found[name]) for name in ("estimate", "low", "high")}
    side = int(found["low"] > 0) - int(found["high"] < 0)
    separate = int(knows["p_effect"] < scores.alpha) * int(np.sign(knows["sign"]))
    sides = {1: "above 0", -1: "below 0", 0: "not told from 0"}
    if rule.some or side == separate or knows["p_effect"] != knows["p_effect"]:
        return shown
    return shown | {"pooled": (
        f"The hierarchical model of all cells puts it at {found['estimate']:+.2f} on the {found['scale']} scale "
        f"(95 % from {found['low']:+.2f} to {found['high']:+.2f}), {sides[side]}; the separate test: {sides[separate]}."
    )}  # fmt: skip


def _flips(
    claim: Claim, families: Sequence[Family], item: str, word: str, knows: Mapping[str, Any], alpha: float
) -> dict[str, Any]:
    """What would change the word: a number on either side (see `flips`), or single tasks that are left out."""
    words = Words(families, item, alpha)
    if word == NO_NUMBER:
        return {"flip": "A number in the released scores."}
    if word == NOT_COMPARABLE:
        return {"flip": "Scores that can be compared: no number right changes what the reason says."}
    if claim.moves is None or knows["value"] != knows["value"]:
        tasks = list(flipping_tasks(words))
        if not words.families[words.rule].tasks:
            return {"flip": None}
        listed = ", ".join(tasks).replace("_", " ")
        return {"flip": f"Leaving out one of these tasks changes the word: {listed}." if tasks else
                "No single task left out changes the word."}  # fmt: skip
    moves = claim.moves
    if moves["from"] not in knows:
        raise UserError(
            f"conf/claim/{claim.name}.yaml: moves from {moves['from']!r}. A row knows: {', '.join(sorted(knows))}"
        )
    now = knows[moves["from"]]

    def number(steps: int) -> float:
        return float(now + steps * moves["by"])

    unable = _unable(claim, words, knows)
    found = flips(words)
    parts = [f"{number(s):.{moves['digits']}f} {moves['of']} would make it “{words.at(s)}”" for s in found]
    text = (
        f"{'; '.join(parts)} (it is {now:.{moves['digits']}f})."
        if parts
        else f"No number of {moves['of']} changes the word."
    )
    if moves["digits"]:
        text = text.replace("No number of", "No")
    ends = {("flip_low" if s < 0 else "flip_high"): number(s) for s in found}
    return {"flip": text, **ends, **unable}


def _unable(claim: Claim, words: Words, knows: Mapping[str, Any]) -> dict[str, Any]:
    """`cannot`: a side that no number could show at this n."""
    assert claim.moves is not None
    by = claim.moves["by"]
    now = knows[claim.moves["from"]]
    low, high = (-now, knows["n"] - now) if by == 1 else (-WIDEST / by, WIDEST / by)
    sides = ("the claim", "its opposite")
    found = [side for side, never in zip(sides, cannot(words, int(low), int(high)), strict=True) if never]
    return {"cannot": f"No number could show {' or '.join(found)} at this n." if found else None}


def inferences(audit: pd.DataFrame) -> pd.DataFrame:
    """One row (INFERENCE) for each independent inference, with the words of its rows."""
    out = []
    for name, part in audit.groupby("inference", sort=False):
        words = list(part["word"])
        counts = {word.replace(" ", "_"): n for word, n in word_counts(words).items()}
        out.append({
            "inference": name, "question": part["question"].iloc[0], "word": family_word(words), "rows": len(part),
            "statement": part["statement"].iloc[0] if len(part) == 1 else _place(part),
            **{each: counts[each] for each in INFERENCE[5:]},
        })  # fmt: skip
    return pd.DataFrame(out, columns=list(INFERENCE))


def _place(part: pd.DataFrame) -> str:
    """Where the statements of an inference stand, or the one thing that they are about."""
    items = part["item"].unique()
    if len(items) == 1 and items[0]:
        return (
            f"Table 2 on {items[0].replace('_', ' ')}"
            if part["place"].str.startswith("Table 2").all()
            else str(items[0])
        )
    formats = {short: words for words, short in PROMPTS.items()}
    place = str(re.split(r"[:,]", part["place"].iloc[0])[0])
    prompt = str(part["inference"].iloc[0]).partition("/")[2]
    return f"{place}, {formats[prompt]}" if prompt in formats else place
