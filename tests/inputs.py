"""Wrong data and wrong configurations: what people bring that is not ours. `tests/test_errors.py` holds what is said.

Each entry: (where, what, the message, what makes the wrong input in a folder and returns what then meets it).
"""

# ruff: noqa: E501 - a table is read by line

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from src import prepare
from src.base import conf
from src.base.files import ROOT
from src.base.frames import read_yaml
from src.base.schema import Task
from src.question import prompts
from src.question.examples import Example
from src.source import pins

Wrong = Callable[[Path], Callable[[], object]]
Entry = tuple[str, str, str, Wrong]

TASK = "analytic_entailment"
FIRST = {"input": "What has a face?", "target_scores": {"a clock": 1, "a cat": 0}}
ITEM = {"input": "What has keys?", "options": ["a piano", "a gate"], "answer": "a piano"}
LABELLED = {
    "question": "What has teeth?",
    "choices": {"label": ["A", "B"], "text": ["a comb", "a dog"]},
    "answerKey": "A",
}
MEND = "Fetch it again: dvc repro -f fetch@bigbench. Where the file is your own, mend it and its sha256 in conf/source/bigbench.yaml"
HERE = f"{TASK}: {TASK}/task.json, example"
READ = f"{TASK}: ... cannot be read as"


def a_task(**changes: Any) -> Task:
    """A task of two items, none of them an exemplar, changed."""
    task = conf.load_task(TASK)
    for key, value in {"n_source": 2, "n_published": 2, "exemplars": [], **changes}.items():
        setattr(task, key, value)
    return task


def bigbench(*entries: object) -> str:
    return json.dumps({"examples": [FIRST, *entries]})


def lines(*entries: object) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def holding(content: str | bytes, **changes: Any) -> Wrong:
    """A task's file with this content, prepared."""

    def wrong(place: Path) -> Callable[[], object]:
        task = a_task(**changes)
        path = place / task.source / task.file
        path.parent.mkdir(parents=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return lambda: prepare.prepare(task, place)

    return wrong


def second(**changes: Any) -> Wrong:
    """A BIG-bench file whose second item is changed."""
    return holding(bigbench({"input": "What has an eye?", "target_scores": {"a needle": 1, "a mirror": 0}} | changes))


def a_folder(place: Path) -> Callable[[], object]:
    task = a_task()
    (place / task.source / task.file).mkdir(parents=True)
    return lambda: prepare.prepare(task, place)


def changed_since(place: Path) -> Callable[[], object]:
    """A fetched file that was edited after its hash was checked."""
    task = a_task()
    source = pins.load_source(task.source, ROOT)
    path = place / source.folder / task.file
    path.parent.mkdir(parents=True)
    path.write_text(bigbench(FIRST))
    (place / "conf").symlink_to(ROOT / "conf")
    return lambda: prepare.refuse_changed(task, place)


def asked(condition: str, n_options: int, exemplars: int = 1) -> Wrong:
    """A task of one item with so many options, under a condition."""

    def ask() -> object:
        options = tuple(f"number {i}" for i in range(n_options))
        shot = Example("t/0", "t/0", "Which one?", options, 0 if options else None, "number 0", 0)
        test = Example("t/1", "t/1", "And now?", options, 0 if options else None, "number 0", None)
        return prompts.ask([test], [shot] * exemplars, a_task(), conf.load("condition", condition, conf.Condition))

    return lambda _: ask


def member(group: str, name: str, text: str | bytes) -> Wrong:
    """A YAML of our own in a copy of a group of conf/, chosen by its name."""

    def wrong(place: Path) -> Callable[[], object]:
        for path in (conf.CONF / group).rglob("*.yaml"):
            copy = place / "conf" / group / path.relative_to(conf.CONF / group)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
        content = text if isinstance(text, bytes) else text.encode()
        (place / "conf" / group / f"{name}.yaml").write_bytes(content)

        def choose() -> object:
            ours = conf.CONF
            conf.CONF = place / "conf"
            try:
                return conf.load(group, name, conf.SCHEMAS[group])
            finally:
                conf.CONF = ours

        return choose

    return wrong


def yaml_of(group: str, like: str, name: str = "own", **changes: Any) -> str:
    """A member of conf/ under a name of our own, with keys changed."""
    import yaml

    settings: Mapping[str, Any] = yaml.safe_load((conf.CONF / group / f"{like}.yaml").read_text())
    return yaml.safe_dump({**settings, "name": name, **changes}, sort_keys=False)


def task_yaml(name: str = "own", **changes: Any) -> Wrong:
    return member("task", name, yaml_of("task", TASK, **{"name": name, **changes}))


def condition_yaml(**changes: Any) -> Wrong:
    return member("condition", "own", yaml_of("condition", "closed_few", **changes))


def a_source(name: str, text: str) -> Wrong:
    def wrong(place: Path) -> Callable[[], object]:
        (place / pins.SOURCES).mkdir(parents=True)
        (place / pins.SOURCES / f"{name}.yaml").write_text(text)
        return lambda: pins.load_source(name, place)

    return wrong


def a_table(text: str) -> Wrong:
    def wrong(place: Path) -> Callable[[], object]:
        (place / "own.yaml").write_text(text)
        return lambda: read_yaml(place / "own.yaml")

    return wrong


SOURCE = "name: {}\nlicence: MIT\nfolder: data/raw/own\ndisk_bytes: 1\nfiles: {{a: b}}\n"
AT = "conf/task/own.yaml: task."
NAMES = "a name has letters, digits, single _ or - between them, begins with a letter, is no word of YAML (...) and has 80 characters at most. Rename the file and its name"
ONE = "or write as_published: true into the task's YAML, and the paper's rule counts"
DATA: list[Entry] = [
    ("item", "several right options", f'{HERE} 1: "a needle", "a mirror" are all right, and only one answer is scored as right: keep one, {ONE}: the first. {MEND}',
     second(target_scores={"a needle": 1, "a mirror": 1})),
    ("item", "a list of right answers, without options", f'{HERE} 1: "a needle", "needle" are all right, ...',
     holding(bigbench({"input": "What has an eye?", "target": ["a needle", "needle"]}))),
    ("item", "a graded score", f'{HERE} 1: the score of "a mirror" is neither 1 nor 0: give it one of them, {ONE}: it is wrong. {MEND}',
     second(target_scores={"a needle": 1, "a mirror": 0.5})),
    ("item", "a negative score", f'{HERE} 1: the score of "a mirror" is neither 1 nor 0...',
     second(target_scores={"a needle": 1, "a mirror": -1})),
    ("item", "no right option", f"{READ} bigbench (example 1: no option has the score 1, so none is right). {MEND}",
     second(target_scores={"a needle": 0, "a mirror": 0})),
    ("item", "scores that are no numbers", f"{READ} bigbench (example 1: target_scores is an object of options and their scores, which are numbers). {MEND}",
     second(target_scores={"a needle": "yes", "a mirror": "no"})),
    ("item", "one option", f"{HERE} 1: it has one option, so that nothing is asked. {MEND}", second(target_scores={"a needle": 1})),
    ("item", "an empty option", f"{HERE} 1: option 2 is empty. {MEND}", second(target_scores={"a needle": 1, "": 0})),
    ("item", "an option with a blank at its end", f'{HERE} 1: the option "a mirror " begins or ends with a blank, which no answer repeats; take it away, {ONE}: only an answer with the blank picks it. {MEND}',
     second(target_scores={"a needle": 1, "a mirror ": 0})),
    ("item", "options that differ in case or a full stop", f'{HERE} 1: the options "a needle", "A needle." count as one, since case and a last full stop do not matter; keep one, {ONE}: where one is right, so is the other. {MEND}',
     second(target_scores={"a needle": 1, "A needle.": 0})),
    ("item", "an option twice", f'{READ} bigbench (ValueError: "a needle" is a key twice in one object). {MEND}',
     holding('{"examples": [{"input": "x", "target_scores": {"a needle": 1, "a needle": 0}}]}')),
    ("item", "NaN", f"{READ} bigbench (ValueError: NaN is no number of JSON). {MEND}", second(target_scores={"a": float("nan")})),
    ("item", "an empty input", f"{HERE} 1: its input is empty. {MEND}", second(input=" \n")),
    ("item", "an input that is no text", f"{HERE} 1: its input is 7, which is no text; write it in quotation marks. {MEND}", second(input=7)),
    ("item", "a lone surrogate", f"{HERE} 1: its input holds half a character (a lone surrogate), which no tokenizer takes. {MEND}",
     second(input="What has an eye\ud800?")),
    ("item", "the character U+0000", f"{HERE} 1: its input holds the character U+0000, at which some programs cut a text off. {MEND}",
     second(input="What has an eye\0?")),
    ("item", "no answer", f"{READ} bigbench (example 1 lacks 'target'). {MEND}", holding(bigbench({"input": "What has an eye?"}))),
    ("item", "an item that is no object", f'{READ} bigbench (example 1 is "What?", and no object with keys). {MEND}', holding(bigbench("What?"))),
    ("item", "the answer as an index", f"{READ} items (example 1: answer 0 is none of its options; it is exactly one option, as it is written there). {MEND}",
     holding(lines(ITEM, ITEM | {"answer": 0}), reader="items")),
    ("item", "the answer as a letter", f'{READ} items (example 1: answer "A" is none of its options; ...',
     holding(lines(ITEM, ITEM | {"answer": "A"}), reader="items")),
    ("item", "options that are numbers", f"{HERE} 1: option 1 is 1, which is no text; write it in quotation marks. {MEND}",
     holding(lines(ITEM, ITEM | {"options": [1, 2], "answer": 1}), reader="items")),
    ("item", "1.0 for the option 1", f"{READ} items (example 1: answer 1.0 is none of its options; ...",
     holding(lines(ITEM, ITEM | {"options": [1, 2], "answer": 1.0}), reader="items")),
    ("item", "true for an answer", f"{READ} items (example 1: answer true is none of its options; ...",
     holding(lines(ITEM, ITEM | {"answer": True}), reader="items")),
    ("item", "a line that is no JSON", f"{READ} items (ValueError: line 2: Expecting value...). {MEND}", holding(lines(ITEM) + "input,answer\n", reader="items")),
    ("item", "a label that is not there", f'{READ} labelled_choices (example 1: answerKey "F" is none of its labels; it is exactly one label, as it is written there). {MEND}',
     holding(lines(LABELLED, LABELLED | {"answerKey": "F"}), reader="labelled_choices")),
    ("item", "fewer labels than options", f"{READ} labelled_choices (example 1: choices has as many labels as texts, each in a list). {MEND}",
     holding(lines(LABELLED, LABELLED | {"choices": {"label": ["A"], "text": ["a comb", "a dog"]}}), reader="labelled_choices")),
    ("item", "an exemplar that is a test item, too", f"{TASK}: the test item {TASK}/1 asks what the exemplar {TASK}/0 answers (1 such items). Take one of the two out, or choose other exemplars in conf/task/{TASK}.yaml",
     holding(bigbench(FIRST), exemplars=[0], n_published=1)),
    ("item", "27 options under letters", "t/0 has 27 options, and closed_adv_few names them by the 26 letters. Ask the task under conditions without letters (closed_zero, closed_few), or give it fewer options",
     asked("closed_adv_few", 27)),
    ("item", "no options under letters", "t/1 has no options, and an answer under closed_adv_zero is the letter of one. Ask the task under conditions without letters (open_zero, open_few)",
     asked("closed_adv_zero", 0)),
    ("item", "few-shot without exemplars", f"{TASK} has no exemplars, so closed_few would ask what its zero-shot condition asks. Name some in conf/task/{TASK}.yaml (exemplars: [0, 1]), or leave the condition out",
     asked("closed_few", 2, exemplars=0)),
    ("task file", "a table (csv)", "Unknown reader 'csv'. Known (src/question/readers.py, READERS): bigbench, ...", holding("input,answer\n", reader="csv")),
    ("task file", "a list of items where an object is read", f"{READ} bigbench (it is no object with the key 'examples'). {MEND}", holding("[]")),
    ("task file", "gzip", f"{READ} bigbench (UnicodeDecodeError: ...). {MEND}", holding(b"\x1f\x8b\x08\x00\x00")),
    ("task file", "a folder", f"{TASK}: ... is no file. Make it: dvc repro fetch@bigbench", a_folder),
    ("task file", "changed since it was fetched", "bigbench: task.json has sha256 ..., conf/source/bigbench.yaml expects ... fetch it again.", changed_since),
    ("task file", "the exemplars' file missing", f"{TASK}: ...shots.jsonl is missing. Make it: dvc repro fetch@bigbench",
     holding(bigbench(FIRST), exemplar_file="shots.jsonl")),
    ("task YAML", "an index of no example", f"conf/task/{TASK}.yaml: exemplars=[-1]: exemplars are distinct indices into {TASK}/task.json, from 0 to 1",
     holding(bigbench(FIRST), exemplars=[-1])),
    ("task YAML", "an exemplar twice", f"{AT}exemplars=[0, 0]: task.exemplars is distinct indices into the file, from 0", task_yaml(exemplars=[0, 0])),
    ("task YAML", "more exemplars than there are", f"{TASK}: shots.jsonl holds 0 examples, exemplars_drawn is 5. Draw fewer in conf/task/{TASK}.yaml",
     lambda place: lambda: prepare.examples(a_task(reader="items", exemplar_file="shots.jsonl", exemplars_drawn=5), lines(ITEM, ITEM), "")),
    ("task YAML", "a group that is no regular expression", f"conf/task/{TASK}.yaml: group is no regular expression: ...", holding(bigbench(FIRST), group="(")),
    ("task YAML", "a group that captures nothing", f"conf/task/{TASK}.yaml: group captures nothing. Put what examples share into brackets: (...)", holding(bigbench(FIRST), group="x")),
    ("task YAML", "an unknown construction of options", "Unknown construction of options 'nearby'. Did you mean nearby_numbers?...",
     holding(bigbench(FIRST), options={"construct": "nearby", "count": 3})),
    ("task YAML", "a construction of one option", f"conf/task/{TASK}.yaml: options.count=1: count is a whole number of 2 or more",
     holding(bigbench(FIRST), options={"construct": "nearby_numbers", "count": 1})),
    ("task YAML", "options that cannot be constructed", f"{READ} bigbench ({TASK}/0: nearby_numbers makes no options of it: ...",
     holding(bigbench(FIRST), options={"construct": "nearby_numbers", "count": 3})),
    ("task YAML", "a metric that is none", f"{AT}metric=...: task.metric is a metric (exact_match, ...) by prompt format (closed, closed_adv, open)", task_yaml(metric={"closed": "accuracy"})),
    ("task YAML", "a competence that is none", f"{AT}competence=both: task.competence is formal or functional", task_yaml(competence="both")),
    ("task YAML", "more memorisable than 50", f"{AT}memorisable=51: task.memorisable is a whole number from 0 to 50: ...", task_yaml(memorisable=51)),
    ("task YAML", "no examples", f"{AT}n_source=0: task.n_source is a whole number of 1 or more: the examples in the file", task_yaml(n_source=0)),
    ("task YAML", "text for a number", "conf/task/own.yaml: Value 'many'...", task_yaml(n_source="many")),
    ("task YAML", "a key twice", "conf/task/own.yaml cannot be read as YAML: ...found duplicate key file.... Mend it there",
     member("task", "own", yaml_of("task", TASK) + "file: other.json\n")),
    ("task YAML", "a tab", "conf/task/own.yaml cannot be read as YAML: ...found character '\\t' that cannot start any token.... Mend it there",
     member("task", "own", "name: own\nmetric:\n\tclosed: exact_match\n")),
    ("task YAML", "a list", "conf/task/own.yaml is no mapping of keys and values. Write them as key: value", member("task", "own", "- own\n")),
    ("task YAML", "a base that is missing", "conf/task/base/bigbnch.yaml is missing, and a defaults list names it",
     member("task", "own", yaml_of("task", TASK, defaults=[{"base@_here_": "bigbnch"}, "_self_"]))),
    ("task YAML", "copied, its name not changed", f"conf/task/own.yaml: its name is '{TASK}', and must be that of its file, 'own'. Mend one of the two",
     member("task", "own", yaml_of("task", TASK, name=TASK))),
    ("name", "no, which YAML reads as false", f"conf/task/no.yaml: {NAMES}", task_yaml("no")),
    ("name", "a number", f"conf/task/007.yaml: {NAMES}", task_yaml("007")),
    ("name", "a dot", f"conf/task/my.task.yaml: {NAMES}", task_yaml("my.task")),
    ("name", "what separates task and condition in file names", f"conf/task/my__task.yaml: {NAMES}", task_yaml("my__task")),
    ("name", "letters beyond ASCII", f"conf/task/rätsel.yaml: {NAMES}", task_yaml("rätsel")),
    ("name", "a very long one", f"conf/task/...: {NAMES}", task_yaml("x" * 200)),
    ("name", "capitals alone", f"conf/task/{TASK.upper()}.yaml: {TASK} differs from it in capitals alone, which not every disk tells apart. Rename one", task_yaml(TASK.upper())),
    ("condition YAML", "an unknown word in braces", "conf/condition/own.yaml: condition.template={question} {choices}: condition.template is a text with {input}, ...",
     condition_yaml(template="{question} {choices}")),
    ("condition YAML", "a lone brace", "conf/condition/own.yaml: condition.choice={option: condition.choice is a text with {option}, ...", condition_yaml(choice="{option")),
    ("condition YAML", "an answer without its place", "conf/condition/own.yaml: condition.answer=yes: condition.answer is a text with {answer}, ...", condition_yaml(answer="yes")),
    ("source YAML", "copied, its name not changed", "conf/source/own.yaml: its name is 'bigbench', and must be that of its file, 'own'", a_source("own", SOURCE.format("bigbench"))),
    ("source YAML", "no YAML", "conf/source/own.yaml: ...", a_source("own", "name: [own")),
    ("table YAML", "a key twice", "... is no valid YAML: found duplicate key title...", a_table("title: a\ncaption: b\ntitle: c\n")),
]  # fmt: skip
"""(where, what, message, wrong input)."""
