"""The size and shape of src/, at a revision or as it stands: `python benchmarks/house.py [REVISION ...]`.

Counts are of text, so that two revisions can be compared whatever they import.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).resolve().parents[1]
PATTERNS = {
    "lines with Any": r"\bAny\b",
    'string columns ["..."]': r"\[\"[a-z_0-9]+\"\]",
    "fmt: skip": r"# fmt: skip",
    "readers of a cell's first line": r"json\.loads\(file\.readline\(\)\)",
    "rules for the primary metric": r"metric\.get\(|\[\"metric\"\]",
    "names bound to found, said, told, kept, asked, drawn": r"^\s*(found|said|told|kept|asked|drawn)\b[^=(]*=(?!=)",
}


def texts(revision: str | None) -> dict[str, str]:
    """Every .py of src/ by path: of a revision, or of the working tree."""
    if revision is None:
        return {str(path.relative_to(ROOT)): path.read_text() for path in sorted((ROOT / "src").rglob("*.py"))}
    names = git("ls-tree", "-r", "--name-only", revision, "src").splitlines()
    return {name: git("show", f"{revision}:{name}") for name in names if name.endswith(".py")}


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def code(tree: ast.Module) -> int:
    """Lines of a file as ast.unparse prints it, without imports and docstrings: what moving code does not change."""

    class Bare(ast.NodeTransformer):
        def visit_Import(self, node: ast.Import) -> None: ...
        def visit_ImportFrom(self, node: ast.ImportFrom) -> None: ...
        def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
            return None if isinstance(node.value, ast.Constant) else node

    return len([line for line in ast.unparse(Bare().visit(tree)).splitlines() if line.strip()])


def shape(files: dict[str, str]) -> dict[str, str]:
    """What the table shows of one tree."""
    trees = [ast.parse(text) for text in files.values()]
    lengths = [
        (node.end_lineno or 0) - node.lineno + 1
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lines = {name: len(text.splitlines()) for name, text in files.items()}
    longest = max(lines, key=lambda name: lines[name])
    counts = {
        what: str(sum(bool(re.search(pattern, line)) for text in files.values() for line in text.splitlines()))
        for what, pattern in PATTERNS.items()
    }
    return {
        "files": str(len(files)),
        "files directly in src/": str(sum(name.count("/") == 1 for name in files)),
        "lines": f"{sum(lines.values()):,}",
        "lines of code (without imports and docstrings)": f"{sum(map(code, map(ast.parse, files.values()))):,}",
        "longest file": f"{longest} ({lines[longest]})",
        "functions": str(len(lengths)),
        "lines of a function: median, p90, longest": (
            f"{median(lengths):.0f}, {quantiles(lengths, n=10)[-1]:.0f}, {max(lengths)}"
        ),
        **counts,
    }


def main() -> None:
    revisions: list[str | None] = [*sys.argv[1:], None]
    columns = [shape(texts(revision)) for revision in revisions]
    print("|", " | ".join(["", *(revision or "now" for revision in revisions)]), "|")
    print("|", " | ".join(["---"] * (len(columns) + 1)), "|")
    for what in columns[0]:
        print("|", " | ".join([what, *(column[what] for column in columns)]), "|")


if __name__ == "__main__":
    main()
