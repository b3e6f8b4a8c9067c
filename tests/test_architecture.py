"""Imports go one way, heavy ones stay behind their door, and names stay in conf/."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from src.base import conf
from src.base.files import ROOT

SRC = ROOT / "src"
MAY_IMPORT = {
    "base": (),
    "question": ("base",),
    "foreign": ("base", "question"),
    "source": ("base",),
    "engine": ("base", "question", "source"),
    "scoring": ("base", "question", "engine"),
    "cell": ("base", "question", "source", "engine", "scoring"),
    "export": ("base", "question", "source", "engine", "scoring", "cell"),
    "lab": ("base", "question", "source", "engine", "scoring", "cell"),
    "statistics": ("base", "question"),
    "judgement": ("base", "statistics"),
    "pages": ("base",),
}
"""Each folder of src/ and the folders it may import. A command (a .py directly in src/) may import every folder."""
DOORS = {
    "torch": {"engine", "scoring.bertscore", "source.weights"},
    "transformers": {"engine", "scoring.bertscore", "source.weights"},
    "mlflow": {"lab.runs", "lab.spent", "lab.database", "lab.opening"},
    "pingouin": {"statistics", "judgement"},
    "statsmodels": {"statistics", "judgement", "lab.progress"},
    "matplotlib": {"pages.figures", "pages.two_sides", "lab.facts"},
    "bert_score": {"scoring.bertscore"},
    "hydra": {"base.conf", "base.grid", "base.quoting", "lab.progress", "run"},
}
MODULES = {
    ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__"): path
    for path in SRC.rglob("*.py")
    if path != SRC / "__init__.py"
}
COMMANDS = sorted(name for name in MODULES if "." not in name and name not in MAY_IMPORT)
LONGEST = 450  # lines of a file


def imports(path: Path) -> set[str]:
    """Every module that a file imports, and every name it takes out of one."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def used(name: str) -> set[str]:
    """The modules of src/ that a module imports."""
    names = {each.removeprefix("src.") for each in imports(MODULES[name]) if each.startswith("src.")}
    return (names & set(MODULES)) - {name}


def test_every_folder_is_one_noun_that_is_listed_here() -> None:
    folders = {path.name for path in SRC.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(MAY_IMPORT)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_file_directly_in_src_is_a_command(name: str) -> None:
    text = MODULES[name].read_text()
    assert "\ndef main(" in text
    assert '\nif __name__ == "__main__":' in text


@pytest.mark.parametrize("name", sorted(set(MODULES) - set(COMMANDS)))
def test_a_folder_imports_only_folders_below_it(name: str) -> None:
    folder = name.partition(".")[0]
    allowed = {folder, *MAY_IMPORT[folder]}
    assert {each for each in used(name) if each.partition(".")[0] not in allowed} == set()


def test_no_import_runs_in_a_circle() -> None:
    TopologicalSorter({name: used(name) for name in MODULES}).prepare()


@pytest.mark.parametrize("library", sorted(DOORS))
def test_a_heavy_library_has_one_door(library: str) -> None:
    users = {name for name, path in MODULES.items() if any(i.split(".")[0] == library for i in imports(path))}
    assert {
        user for user in users if user not in DOORS[library] and user.partition(".")[0] not in DOORS[library]
    } == set()


def test_no_model_or_task_is_named_in_src() -> None:
    names = [*conf.known("model"), *conf.known("task")]
    for path in MODULES.values():
        literals = {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}
        assert not literals & set(names), path


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_file_is_short_enough_to_be_read(name: str) -> None:
    assert len(MODULES[name].read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize(
    "name", ["question.prompts", "prepare", "cell.store", "scoring.score", "run", "report", "pages.page", "lab.tokens"]
)
def test_importing_a_module_does_not_load_what_it_may_never_need(name: str) -> None:
    heavy = "{m for m in sys.modules if m in ('torch', 'transformers', 'mlflow', 'pingouin', 'matplotlib')}"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, src.{name}; print({heavy})"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "set()"
