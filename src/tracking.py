"""Every cell as an MLflow run under its model's parent run. If the store of runs is out of reach, the work goes on.

A run is found again by its fingerprint: computing a cell twice updates its run and never doubles it. Each finished cell
is also kept in data/cells/<experiment>/<fingerprint>.jsonl (beside the example store), so that what MLflow lacks is
logged later: `sync` logs what data/cells/<experiment> and data/outputs hold; without a word it then opens the UI.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from src.base import cli, conf, grid
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.schema import Model
from src.cell.file import Header, LoadEncoder, is_cell, load_encoder, read_cell, read_header, scored
from src.lab.facts import Facts, facts_of, from_conf
from src.lab.runs import (
    FORMAT,
    VIEWS,
    database_of,
    default_uri,
    kept_in,
    log_cell,
    opened,
    parent_run,
    real_or_apart,
    summarise,
    unreachable_error,
)


def sync(folders: Sequence[Path], uri: str | None, experiment: str) -> str:
    """Log the finished cells under `folders` that MLflow lacks; what was done, in a line.

    Of two files of one fingerprint the first counts. Raises UserError where MLflow cannot be opened or is lost.
    """
    heads, refused = finished(folders)
    client, where = opened(uri, experiment)
    try:
        there = _whole(client, where)
        todo = {path: head for path, head in heads.items() if there.get(head.fingerprint) != _identity(head)}
        skipped = _log_all(client, where, todo, experiment)
    except UserError:
        raise
    except Exception as error:
        raise unreachable_error(uri, error) from error
    done = f"{len(todo) - len(skipped)} cells logged, {len(heads) - len(todo)} were there already"
    return "\n  ".join([done, *(f"not logged: {each}" for each in [*refused, *skipped])])


def _identity(head: Header) -> tuple[str, str]:
    return head.completions_sha256, FORMAT


def _whole(client: Any, experiment: str) -> dict[str, tuple[str, str]]:
    """fingerprint -> identity of the cells that are logged to the end."""
    query = "tags.kind = 'cell' and attributes.status = 'FINISHED'"
    runs = client.search_runs([experiment], query, max_results=50_000)
    tags = [run.data.tags for run in runs]
    return {t["fingerprint"]: (t["completions_sha256"], t.get("logged_format", "1")) for t in tags}


def _log_all(client: Any, where: str, todo: Iterable[Path], experiment: str) -> list[str]:
    """Log these cells under their models' parents; why each that was skipped was."""
    encoder = functools.cache(load_encoder)

    @functools.cache
    def parent(model: str, suite: str) -> str:
        return parent_run(client, where, conf.load("model", model, Model), suite, {"logged_by": "sync"})

    skipped, parents = [], set()
    for path in todo:
        try:
            facts, head = _facts_of(path, experiment, encoder)
            above = parent(head.model, head.suite)
        except UserError as error:
            skipped.append(str(error))
            continue
        log_cell(client, where, above, facts, "sync")
        parents.add(above)
    for each in parents:
        summarise(client, where, each)
        client.set_terminated(each)
    return skipped


def _facts_of(path: Path, experiment: str, encoder: LoadEncoder) -> tuple[Facts, Header]:
    """(what is told of a cell's file, its header). Raises UserError where it is not for this experiment."""
    head, answers = read_cell(path)
    if real_or_apart(experiment, head.weights) != experiment:
        raise UserError(f"{path}: {head.weights} weights have an experiment of their own")
    recorded = head.recorded or from_conf(head, answers)
    cell = scored(head, answers, encoder, recorded.params["primary_metric"])
    return facts_of(cell, recorded), head


def finished(folders: Sequence[Path]) -> tuple[dict[Path, Header], list[str]]:
    """(header of each finished cell under these folders, one file a fingerprint; why the others are none).

    A *.jsonl of another kind is passed over. Raises UserError for no folder.
    """
    heads: dict[str, tuple[Path, Header]] = {}
    refused = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder. Name folders of finished cells, e.g. data/outputs")
        for path in filter(is_cell, sorted(folder.rglob("*.jsonl"))):
            try:
                head = read_header(path)
            except UserError as error:
                refused.append(str(error))
            else:
                heads.setdefault(head.fingerprint, (path, head))
    return dict(heads.values()), refused


def links(address: str, experiment: str) -> str:
    """Where the two views of the runs table are."""
    page = f"{address}/#/experiments/{experiment}/runs?viewStateShareKey="
    return "\n".join(f"{page}{name}  {view.said}" for name, view in VIEWS.items())


def ui(uri: str | None, experiment: str) -> None:
    """Print the links, then serve the UI; where the runs are on a server, only the links. Does not return."""
    _, where = opened(uri, experiment)
    database = database_of(uri or default_uri())
    if database is None:
        print(links(str(uri).rstrip("/"), where))
        sys.exit(0)
    port = os.environ.get("PORT", "5000")
    print(links(f"http://127.0.0.1:{port}", where), flush=True)
    artifacts = (database.resolve().parent / "mlartifacts").as_uri()
    store = ["--backend-store-uri", uri or default_uri(), "--default-artifact-root", artifacts]
    command = ["mlflow", "server", *store, "--host", "127.0.0.1", "--port", port, "--workers", "1"]
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # eight processes that score no LLM judge here
    os.execvp("mlflow", command)


def asked(words: Iterable[str]) -> tuple[list[Path], str | None, str]:
    """(folders, uri, experiment) of a command's words: folders and overrides of conf/config.yaml. Raises UserError."""
    words = list(words)
    cfg = grid.composed([word for word in words if "=" in word])
    store, experiment = Path(cfg.store), str(cfg.tracking.experiment)
    beside = [folder for folder in (kept_in(store, experiment), store.parent / "outputs") if folder.is_dir()]
    return [Path(word) for word in words if "=" not in word] or beside, cfg.tracking.uri, experiment


def main() -> None:
    """`python -m src.tracking [ui|sync] [FOLDER ...] [tracking.uri=...]`. A user's mistake is one line on stderr."""
    parser = cli.command("tracking", __doc__, "", "sync data/laptop tracking.uri=http://127.0.0.1:5000")
    parser.add_argument("what", nargs="?", choices=("ui", "sync"), default="ui", help="ui (the default): sync first")
    parser.add_argument("words", nargs="*", metavar="FOLDER|key=value", help="folders of cells; tracking.uri=...")
    given = parser.parse_args()
    os.chdir(ROOT)
    try:
        folders, uri, experiment = asked(given.words)
        print(sync(folders, uri, experiment), flush=True)
        if given.what == "ui":
            ui(uri, experiment)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
