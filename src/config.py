"""Write params.yaml: a suite of conf/suite, with the settings that are to differ from it."""

from __future__ import annotations

from omegaconf import OmegaConf

from src.base import grid
from src.base.cli import command, stage
from src.base.files import ROOT, whole


def main() -> None:
    """`python -m src.config suite=<name> [key=value ...]` writes params.yaml, as `dvc exp run -S` does."""
    parser = command("config", __doc__, "suite=pilot", "suite=paper limit=32")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="suite=<name>, limit=8, ...")
    words = parser.parse_args().overrides
    with stage("params.yaml"):
        params = grid.checked_params(grid.composed_params(words))
        with whole(ROOT / "params.yaml") as part:
            part.write_text(OmegaConf.to_yaml(params), encoding="utf-8")
        models, tasks = len(params["models"]), len(params["tasks"])
        print(f"params.yaml: suite {params['suite']}, {models} models, {tasks} tasks. dvc repro")


if __name__ == "__main__":
    main()
