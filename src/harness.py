"""Tasks for other programs, made of your own prepared items: `python -m src.harness lm_eval|inspect FOLDER`.

FOLDER gets a task a cell of the grid: for lm-evaluation-harness a group of tasks, for inspect a file of them. A model
is sent this project's prompts, byte for byte, controls included. Whoever runs them needs FOLDER alone.

The items are dataset text. So FOLDER tells git to ignore it, and BIG-bench's canary stands in each of its files. Do not
publish it. docs/harness.md has the rest.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from src import release
from src.base import conf
from src.base.cli import command, stage
from src.base.errors import UserError
from src.base.files import ROOT, whole_folder
from src.base.grid import params_with
from src.base.schema import Compat, Generation, Task
from src.foreign.tasks import PROGRAMS, Cell, Scoring
from src.lab.tokens import Grid, Rendered, grid_of
from src.prepare import RAW
from src.question import examples, prompts
from src.scoring import likelihood, match

MANIFEST, IGNORE, README, ITEMS = "emergence-audit.json", ".gitignore", "README.md", "items"
RUN = {
    "lm_eval": "lm_eval --model hf --model_args pretrained=MODEL --include_path {folder} --tasks emergence_audit "
    "--log_samples --output_path OUT",
    "inspect": "cd {folder} && inspect eval emergence_audit.py --model PROVIDER/MODEL",
}
"""The command that runs a folder, by program."""
READ_ME = """# Tasks of emergence-audit for {program}

    {run}

The items are dataset text. Do not publish this folder, and keep it out of training data: git ignores it, and the first
line of each file in items/ has the canary of its source. {file} says what was asked.
"""


@dataclass(frozen=True)
class Written:
    """What a folder got."""

    cells: int
    items: int
    missing: tuple[str, ...]  # tasks that are not prepared


def cells_of(grid: Grid, missing_fails: bool, root: Path) -> tuple[list[Cell], tuple[str, ...]]:
    """(the cells of a grid, the tasks that are not prepared). Raises UserError where none is, or one that must be."""
    missing = tuple(name for name in grid.tasks if not (root / examples.TASKS / f"{name}.jsonl").exists())
    if missing and (missing_fails or len(missing) == len(grid.tasks)):
        examples.load(missing[0], root / examples.TASKS)  # says what is missing, and how to make it
    there = [task for name, task in grid.tasks.items() if name not in missing]
    return [cell for task in there for cell in cells_of_task(grid, task, root)], missing


def cells_of_task(grid: Grid, task: Task, root: Path) -> list[Cell]:
    """The cells of a prepared task. Raises UserError where a condition contradicts itself or the task."""
    exemplars, tests, sha256 = examples.load(task.name, root / examples.TASKS)
    kept, known = canary(task, root), {example.id: example for example in tests}
    cells = []
    for condition in grid.conditions.values():
        cell = Rendered(tuple(prompts.ask(tests, exemplars, task, condition, grid.limit)), sha256)
        if not cell.prompts:
            raise UserError(f"{task.name}/{condition.name} has no item to ask. Leave out the task or the condition")
        about = {"data_sha256": cell.data_sha256, "prompts_sha256": cell.sha256, "canary": kept}
        cells.append(Cell(task.name, condition, cell.prompts, known if condition.plain else {}, about))
    return cells


def canary(task: Task, root: Path) -> str:
    """What the task's source asks to be kept with its items; "" where it asks nothing.

    Raises UserError where the source is not here to be asked, or is damaged.
    """
    path = root / RAW / task.source / task.file
    again = f"It says whether its items have a canary to keep: dvc repro -f fetch@{task.source}"
    if not path.is_file():
        raise UserError(f"{path} is missing. {again}")
    if path.suffix != ".json":
        return ""
    try:
        return str(json.loads(path.read_text(encoding="utf-8")).get("canary", ""))
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path} is not whole ({error}). {again}") from None


def code_of(path: Path) -> str:
    """The code of a module below its imports."""
    text = path.read_text(encoding="utf-8")
    last = max(node.end_lineno or 0 for node in ast.parse(text).body if isinstance(node, ast.Import | ast.ImportFrom))
    return "\n".join(text.split("\n")[last:])


def refuse_others(folder: Path) -> None:
    """Raises UserError where a folder is there that holds what this command did not write, such as logs of a run."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file. Name a folder")
    try:
        own = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        own = []
    if others := sorted({path.name for path in folder.iterdir()} - {*own, ITEMS, "__pycache__"}):
        raise UserError(
            f"{folder} holds {others[0]}, which this command did not write. Name another folder, or move it"
        )


def write(program: str, folder: Path, words: Sequence[str], root: Path = ROOT) -> Written:
    """Write the folder, whole or not at all. Raises UserError where it would take the place of something else."""
    refuse_others(folder)
    settings = params_with(words)
    grid = grid_of(settings)
    cells, missing = cells_of(grid, settings["incomplete"] == "fail", root)
    scoring = Scoring(
        code_of(Path(match.__file__)),
        likelihood.TIE,
        conf.load("compat", "fixed", Compat),
        Generation(),
        len(grid.seeds),
    )
    files = PROGRAMS[program](cells, scoring)
    about = {
        "program": program, "version": release.version_of(ROOT / "pyproject.toml"), "limit": grid.limit,
        "tasks": [*grid.tasks], "conditions": [*grid.conditions], "not_prepared": [*missing],
        "files": [IGNORE, README, MANIFEST, *files],
    }  # fmt: skip
    words_of = {"program": program, "run": RUN[program].format(folder="FOLDER"), "file": MANIFEST}
    files |= {README: READ_ME.format(**words_of), MANIFEST: json.dumps(about, indent=1) + "\n"}
    with whole_folder(folder) as part:
        (part / IGNORE).write_text("*\n", encoding="utf-8")  # before any dataset text is there
        (part / ITEMS).mkdir()
        for cell in cells:
            (part / ITEMS / f"{cell.name}.jsonl").write_bytes(cell.file())
        for name, text in files.items():
            (part / name).write_text(text, encoding="utf-8")
    return Written(len(cells), sum(len(cell.prompts) for cell in cells), missing)


def main() -> None:
    """`python -m src.harness PROGRAM FOLDER [key=value ...]`."""
    parser = command("harness", __doc__, "lm_eval data/lm_eval", "lm_eval data/lm_eval suite=controls limit=64",
                     "inspect data/inspect 'tasks=[social_iqa]' 'conditions=[closed_few]'")  # fmt: skip
    parser.add_argument("program", choices=sorted(PROGRAMS), help="who is to run the tasks")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where they are written")
    parser.add_argument("words", nargs="*", metavar="key=value", help="suite=NAME, tasks=[...], limit=8, ...")
    given = parser.parse_args(sys.argv[1:])
    with stage("harness"):
        done = write(given.program, given.folder, given.words)
        print(f"{given.folder}: {done.cells} cells, {done.items} prompts. They are dataset text: do not publish them")
        if done.missing:
            print(f"left out, not prepared: {', '.join(done.missing)}")
        print(RUN[given.program].format(folder=given.folder))


if __name__ == "__main__":
    main()
