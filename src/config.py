"""Write params.yaml: a suite of conf/suite, and what is to differ from it."""

from __future__ import annotations

from omegaconf import OmegaConf

from src.base import grid
from src.base.cli import command, stage
from src.base.files import ROOT, whole


def main() -> None:
    """`python -m src.config suite=<name> [key=value ...]` writes params.yaml, as `dvc exp run -S` does."""
    parser = command("config", "Write params.yaml: a suite of conf/suite, and what is to differ from it.",
                     "suite=pilot", "suite=paper limit=32")  # fmt: skip
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="suite=<name>, limit=8, ...")
    words = parser.parse_args().overrides
    with stage("params.yaml"):
        found = grid.checked_params(grid.composed_params(words))
        with whole(ROOT / "params.yaml") as part:
            part.write_text(OmegaConf.to_yaml(found))
    print(f"params.yaml: suite {found['suite']}, {len(found['models'])} models, {len(found['tasks'])} tasks. dvc repro")


if __name__ == "__main__":
    main()
