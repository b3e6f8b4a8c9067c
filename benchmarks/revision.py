"""Is this tree faster than a revision? Both run the same cells, turn about, each into a store of its own.

    python benchmarks/revision.py <revision> [task] [repeats]

Prints seconds of `src.run` a repeat (weights loaded, a fresh MLflow store included), the median of the ratios, and
whether every completion is the same. Model and prepared tasks are those of this tree (`dvc repro prepare` first).
"""

import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL = "smollm2_135m_instruct"
DONE = re.compile(r"cells done in (\d+) s")


def seconds(tree: Path, task: str, scratch: Path) -> tuple[int, dict[str, str]]:
    """Seconds the cells took in `tree`, and each cell's completions_sha256."""
    words = [f"+model={MODEL}", f"tasks=[{task}]", f"store='{scratch}/store'", f"out='{scratch}/out'"]
    words += [f"data='{ROOT}/data/tasks'", f"tracking.uri='sqlite:///{scratch}/mlflow.db'"]
    done = subprocess.run(
        [sys.executable, "-m", "src.run", *words], cwd=tree, capture_output=True, text=True, check=False
    )
    found = DONE.search(done.stdout)
    if done.returncode or not found:
        sys.exit(f"{tree}: {done.stdout}{done.stderr}")
    heads = {path.name: json.loads(path.open().readline()) for path in (scratch / "out").glob("*.jsonl")}
    return int(found[1]), {name: head["completions_sha256"] for name, head in heads.items()}


def main() -> None:
    """Take turns, print, clean up."""
    given = sys.argv[1:]
    if not given:
        sys.exit(__doc__)
    revision, task, repeats = (*given, *("", "logical_deduction", "3")[len(given) :])[:3]
    with tempfile.TemporaryDirectory() as folder:
        before, ratios = Path(folder) / "before", []
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", before, revision], cwd=ROOT, check=True)
        try:
            (before / "data/raw").symlink_to(ROOT / "data/raw")
            for turn in range(int(repeats)):
                runs = {}
                for name, tree in (("before", before), ("now", ROOT)):
                    scratch = Path(folder) / f"{name}{turn}"
                    scratch.mkdir()
                    runs[name] = seconds(tree, task, scratch)
                ratios.append(runs["before"][0] / runs["now"][0])
                same = runs["before"][1] == runs["now"][1]
                print(
                    f"{revision} {runs['before'][0]} s, now {runs['now'][0]} s, completions equal: {same}", flush=True
                )
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", before], cwd=ROOT, check=True)
    print(f"median ratio {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
