"""Imports go one way, heavy ones stay behind their door, and names stay in conf/."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from src import config

SRC = config.ROOT / "src"
ORDER = [
    ["names"],
    ["config"],
    ["frames"],
    ["rhyming"],
    ["fetch", "data"],
    ["prompts"],
    ["shards", "preemption"],
    ["store"],
    ["engine", "engine.decoding", "engine.local", "engine.openai"],
    ["scoring"],
    ["cells"],
    ["logged"],
    ["tracking"],
    ["machine"],
    ["run", "collect", "replay", "plan"],
    ["stats_cell"],
    ["stats_scale"],
    ["stats_pairs"],
    ["stats_controls", "stats_questions", "fidelity"],
    ["stats"],
    ["claims"],
    ["figures"],
    ["report"],
    ["annotate", "trace", "release"],
    ["verify"],
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}
DOORS = {
    "torch": {"engine.decoding", "fetch", "scoring"},
    "transformers": {"engine.decoding", "engine.local", "fetch", "scoring"},
    "mlflow": {"tracking"},
    "pingouin": {"stats_cell", "stats_scale", "stats_pairs", "stats_questions"},
    "matplotlib": {"figures", "logged"},
    "great_tables": {"report"},
    "bert_score": {"scoring"},
    "hydra": {"config", "run"},
}
MODULES = {
    ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__"): path
    for path in SRC.rglob("*.py")
    if path != SRC / "__init__.py"
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_every_module_has_its_place():
    assert set(MODULES) == set(LEVEL)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_one_way(name):
    used = {i.removeprefix("src.") for i in imports(MODULES[name]) if i.startswith("src.")} & set(LEVEL)
    backwards = {
        u for u in used if LEVEL[u] > LEVEL[name] or (LEVEL[u] == LEVEL[name] and u.split(".")[0] != name.split(".")[0])
    }
    assert not backwards


@pytest.mark.parametrize("library", sorted(DOORS))
def test_a_heavy_library_has_one_door(library):
    users = {name for name, path in MODULES.items() if any(i.split(".")[0] == library for i in imports(path))}
    assert users <= DOORS[library]


def test_no_model_or_task_is_named_in_src():
    names = [*config.known("model"), *config.known("task")]
    for path in MODULES.values():
        literals = {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}
        assert not literals & set(names), path


@pytest.mark.parametrize("name", ["prompts", "data", "store", "scoring", "run", "report"])
def test_importing_a_module_does_not_load_what_it_may_never_need(name):
    heavy = "{m for m in sys.modules if m in ('torch', 'transformers', 'mlflow', 'pingouin', 'matplotlib')}"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, src.{name}; print({heavy})"],
        cwd=config.ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "set()"
