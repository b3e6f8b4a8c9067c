"""Log finished cells that MLflow lacks (`sync`), then open its UI (`ui`, the default).

Each cell is an MLflow run under the parent run of its model. A run is found by its cell's fingerprint, so logging a
cell twice updates one run. Every finished cell is also kept in data/cells/<experiment>/<fingerprint>.jsonl, beside the
example store. A run goes on while MLflow is out of reach, and `sync` logs its cells later. Without folders, `sync`
reads data/cells/<experiment> and data/outputs.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from src.base import cli, conf, grid
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.schema import Model
from src.base.secrets import shown
from src.cell.file import Header, LoadEncoder, is_cell, load_encoder, read_cell, read_header, scored
from src.lab.facts import Facts, facts_of, from_conf
from src.lab.moved import artifacts_of
from src.lab.opening import database_at, default_uri, opened
from src.lab.refusals import refused
from src.lab.runs import EXAMPLES, FORMAT, TABLE, close, has_artifact, kept_in, log_cell, parent_run, real_or_apart
from src.lab.views import VIEWS


def sync(folders: Sequence[Path], uri: str | None, experiment: str) -> str:
    """Log the finished cells under `folders` that MLflow lacks. Returns what was done, as text.

    If two files have the same fingerprint, the first counts. Raises UserError if MLflow cannot be reached.
    """
    heads, unread = finished(folders)
    client, experiment_id = opened(uri, experiment)
    try:
        logged = _logged(client, experiment_id)
        todo = {path: head for path, head in heads.items() if logged.get(head.fingerprint) != _identity(head)}
        skipped = _log_all(client, experiment_id, todo, experiment)
    except UserError:
        raise
    except Exception as error:
        raise refused(error, database_at(uri), experiment) from error
    done = f"{len(todo) - len(skipped)} cells logged, {len(heads) - len(todo)} were there already"
    return "\n  ".join([done, *(f"not logged: {each}" for each in [*unread, *skipped])])


def _identity(head: Header) -> tuple[str, str]:
    return head.completions_sha256, FORMAT


def _logged(client: Any, experiment: str) -> dict[str, tuple[str, str]]:
    """The cells that are completely logged: fingerprint -> identity.

    A cell whose examples are gone, or whose model's run was deleted, is logged again.
    """
    query = "tags.kind = 'cell' and attributes.status = 'FINISHED'"
    runs = client.search_runs([experiment], query, max_results=50_000)
    models = {run.info.run_id for run in _models(client, experiment)}
    with ThreadPoolExecutor(8) as several:  # because a server is asked for each
        there = list(several.map(lambda run: has_artifact(client, run, EXAMPLES), runs))
    tags = [run.data.tags for run, has in zip(runs, there, strict=True) if has]
    return {
        t["fingerprint"]: (t["completions_sha256"], t.get("logged_format", "1"))
        for t in tags
        if t.get("mlflow.parentRunId") in models
    }


def _models(client: Any, experiment: str) -> list[Any]:
    return list(client.search_runs([experiment], "tags.kind = 'model'", max_results=50_000))


def _log_all(client: Any, experiment_id: str, todo: Iterable[Path], experiment: str) -> list[str]:
    """Log these cells under the parent runs of their models. Returns the reason for each one skipped."""
    encoder = functools.cache(load_encoder)

    @functools.cache
    def parent(model: str, suite: str) -> str:
        return parent_run(client, experiment_id, conf.load("model", model, Model), suite, {"logged_by": "sync"})

    skipped, parents = [], set()
    for path in todo:
        try:
            facts, head = _facts_of(path, experiment, encoder)
            parent_id = parent(head.model, head.suite)
        except UserError as error:
            skipped.append(str(error))
            continue
        log_cell(client, experiment_id, parent_id, facts, "sync")
        parents.add(parent_id)
    for run in _models(client, experiment_id):
        lost = run.info.status == "FINISHED" and not has_artifact(client, run, TABLE)
        if run.info.run_id in parents or lost:
            close(client, experiment_id, run.info.run_id)
    return skipped


def _facts_of(path: Path, experiment: str, encoder: LoadEncoder) -> tuple[Facts, Header]:
    """(facts of a cell's file, its header). Raises UserError if the cell belongs to another experiment."""
    head, answers = read_cell(path)
    if real_or_apart(experiment, head.weights) != experiment:
        raise UserError(f"{path}: {head.weights} weights have an experiment of their own")
    recorded = head.recorded or from_conf(head, answers)
    cell = scored(head, answers, encoder, recorded.params["primary_metric"])
    return facts_of(cell, recorded), head


def finished(folders: Sequence[Path]) -> tuple[dict[Path, Header], list[str]]:
    """(path -> header of the finished cells under these folders, reasons why other files were refused).

    Each fingerprint appears once. A *.jsonl file of another kind is skipped. Raises UserError if a folder is missing.
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
    """The addresses of the two views of the table of runs."""
    page = f"{address}/#/experiments/{experiment}/runs?viewStateShareKey="
    return "\n".join(f"{page}{name}  {view.caption}" for name, view in VIEWS.items())


def ui(uri: str | None, experiment: str) -> None:
    """Print the links, then serve the UI. If the runs are on a server, only the links. Does not return."""
    _, experiment_id = opened(uri, experiment)
    database = database_at(uri)
    if database is None:
        print(links(shown(uri).rstrip("/"), experiment_id))
        sys.exit(0)
    port = os.environ.get("PORT", "5000")
    print(links(f"http://127.0.0.1:{port}", experiment_id), flush=True)
    store = ["--backend-store-uri", uri or default_uri(), "--artifacts-destination", artifacts_of(database).as_uri()]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        *store,
        "--host",
        "127.0.0.1",
        "--port",
        port,
        "--workers",
        "1",
    ]
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # else eight processes for LLM judges
    os.execv(sys.executable, [*command, "--workers", "1"])


def settings_of(words: Iterable[str]) -> tuple[list[Path], str | None, str]:
    """(folders, uri, experiment) from folders and overrides on the command line. Raises UserError."""
    words = list(words)
    cfg = grid.composed([word for word in words if "=" in word])
    store, experiment = Path(cfg.store), str(cfg.tracking.experiment)
    default = [folder for folder in (kept_in(store, experiment), store.parent / "outputs") if folder.is_dir()]
    return [Path(word) for word in words if "=" not in word] or default, cfg.tracking.uri, experiment


def main() -> None:
    """`python -m src.tracking [ui|sync] [FOLDER ...] [tracking.uri=...]`. A user's mistake is one line on stderr."""
    parser = cli.command("tracking", __doc__, "", "sync data/laptop tracking.uri=http://127.0.0.1:5000")
    parser.add_argument("what", nargs="?", choices=("ui", "sync"), default="ui", help="ui (the default): sync first")
    parser.add_argument("words", nargs="*", metavar="FOLDER|key=value", help="folders of cells; tracking.uri=...")
    given = parser.parse_args()
    os.chdir(ROOT)
    with cli.stage("tracking"):
        folders, uri, experiment = settings_of(given.words)
        print(sync(folders, uri, experiment), flush=True)
        if given.what == "ui":
            ui(uri, experiment)


if __name__ == "__main__":
    main()
