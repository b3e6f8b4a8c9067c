"""Judge every claim of the paper: conf/claim and data/stats -> data/audit.

`python -m src.audit` is a DVC stage. A claim says what the paper says, where, and by which test it is judged. The rules
stand in docs/statistics.md ("How a verdict is reached"); they were written before their verdicts were read.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from src.base.cli import command, stage
from src.base.files import ROOT, remove, whole
from src.base.frames import as_declared, read_frame
from src.base.verdict import word_counts
from src.source.pins import load_source
from src.stats import read_reference, read_setting

if TYPE_CHECKING:
    import pandas as pd

    from src.statistics.setting import Setting

OUT = Path("data/audit")
WHY_NOT = OUT / "NO_VERDICTS.txt"
"""There where the audit has no verdicts, and in their place."""


def audit_frames(root: Path, setting: Setting) -> dict[str, pd.DataFrame]:
    """Every frame of data/audit by name. Raises UserError where a claim is odd."""
    from src.judgement.audit import frames
    from src.judgement.claims import load_claims
    from src.judgement.scores import Scores

    cells, pooled = (read_frame(root, f"data/stats/{name}.parquet") for name in ("cells", "pooled"))
    scores = Scores(cells, setting)
    found = {name: as_declared(name, frame) for name, frame in frames(load_claims(root), scores, pooled).items()}
    return {**found, **pair_frames(root, setting)}


def pair_frames(root: Path, setting: Setting) -> dict[str, pd.DataFrame]:
    """Those about the committed run of suite pair; none where there is no such run."""
    import pandas as pd

    from src.judgement.audit import frames
    from src.judgement.claims import OWN, load_claims
    from src.judgement.own import REFERENCE, OwnScores, overlap_frame

    if not (root / REFERENCE).exists():
        return {}
    scores = OwnScores(read_reference(root / REFERENCE), setting)
    no_pooling = pd.DataFrame(columns=["estimate_of", "item", "gates_act", "estimate"])
    found = frames(load_claims(root, OWN), scores, no_pooling)
    judged = {f"pair_{name}": as_declared(name, found[name]) for name in ("audit", "analyses", "inferences")}
    return {**judged, "pair_overlap": as_declared("pair_overlap", overlap_frame(scores))}


def unprepared(setting: Setting) -> dict[str, str]:
    """The paper's tasks that are not prepared though no hub is needed for them, and the source of each.

    Without their items the paper's scores have no chance level, so that cells below it would count, and other words
    come out.
    """
    absent = [task for task in setting.tables["table2"] if task in setting.tasks and task not in setting.items]
    sources = {task: load_source(setting.tasks[task].source, ROOT) for task in absent}
    return {task: source.name for task, source in sources.items() if not source.hub}


def no_verdicts(absent: dict[str, str], root: Path) -> str:
    """Leaves data/audit with a reason and no verdicts. The reason says what gives them."""
    reason = (
        f"no verdicts on the paper: {len(absent)} of its tasks are not prepared, so that its scores have no chance "
        f"level. For verdicts, put {', '.join(sorted({*absent.values()}))} under sources in params.yaml, then dvc repro"
    )
    for path in (root / OUT).glob("*.parquet"):
        remove(path)
    with whole(root / WHY_NOT) as part:
        part.write_text(reason + "\n", encoding="utf-8")
    return reason


def write(found: dict[str, pd.DataFrame], root: Path) -> None:
    """The frames as data/audit/*.parquet."""
    (root / WHY_NOT).unlink(missing_ok=True)
    for name, frame in found.items():
        with whole(root / OUT / f"{name}.parquet") as part:
            frame.to_parquet(part, index=False)


def main() -> None:
    """`python -m src.audit`: data/stats + conf/claim -> data/audit."""
    command("audit", __doc__, "", "&& dvc repro report").parse_args()
    with stage("audit"):
        setting = read_setting(ROOT)
        if absent := unprepared(setting):
            print(no_verdicts(absent, ROOT))
            return
        found = audit_frames(ROOT, setting)
        write(found, ROOT)
        for what, name in (("statements", "audit"), ("independent inferences", "inferences")):
            words = list(found[name]["word"])
            print(f"{len(words)} {what}: " + ", ".join(f"{n} {word}" for word, n in word_counts(words).items() if n))


if __name__ == "__main__":
    main()
