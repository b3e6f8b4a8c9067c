"""The Hugging Face hub: rows of data sets, snapshots of repositories, and the meaning of its errors."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from src.base.network import check_proxies
from src.source import pins
from src.source.archives import FULL
from src.source.pins import Source, UnavailableError

REVISIONS = Path("conf/revisions.yaml")  # hub id -> 40-digit commit


def json_lines(parquet: Path, columns: list[str], rows: list[int] | None = None) -> str:
    """The columns of a parquet file as JSON lines, in ASCII.

    rows: the indices to take, in this order. None takes all.
    """
    import pyarrow.parquet as pq

    table = pq.read_table(parquet, columns=columns).select(columns)
    picked = table if rows is None else table.take(rows)
    return "".join(json.dumps(row) + "\n" for row in picked.to_pylist())


def snapshot(hub: str, revision: str | None, patterns: Iterable[str], repo_type: str = "model") -> Path:
    """The local folder of a repository's files that match. HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE apply.

    Uses the cache where the hub does not answer. Raises UnavailableError within seconds where the cache has nothing.
    """
    from huggingface_hub import snapshot_download

    check_proxies()
    refusal = _refusal(hub, revision, repo_type)
    wanted = {"repo_type": repo_type, "revision": revision, "allow_patterns": list(patterns)}
    try:
        return Path(snapshot_download(hub, **wanted, local_files_only=refusal is not None))
    except Exception as error:  # the hub's client raises its own, httpx's and the system's
        if getattr(error, "errno", None) in FULL:
            raise
        at = f" at {revision[:8]}" if revision else ""
        raise UnavailableError(f"the hub does not give {hub}{at}: {in_words(refusal or error)}.") from None


TOKEN = "log in (`hf auth login`) or set HF_TOKEN"
WORDS = {
    "GatedRepoError": f"gated: accept its terms on its page with your account, then {TOKEN}",
    "RepositoryNotFoundError": f"no such repository, or one that this account may not see: if it is private, {TOKEN}",
    "RevisionNotFoundError": f"the repository has no such revision ({REVISIONS} or model.revision names it)",
    "IncompleteSnapshotError": "the cache holds a part of it only: fetch it again where the hub can be reached",
    401: "the token is not valid (HF_TOKEN, or the login): make a new one or unset it",
    403: "the token may not read it (HF_TOKEN, or the login): give it that permission",
    429: "too many requests: wait, then run the same command again",
}
"""What an error of the hub's client means, by the name of its class or by the HTTP status of the answer."""


def in_words(error: Exception) -> str:
    """A hub error as a sentence for the user, without its full stop."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    known = WORDS.get(type(error).__name__) or WORDS.get(status)
    return known or str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__


def _refusal(hub: str, revision: str | None, repo_type: str) -> Exception | None:
    """The error with which the hub refuses a repository, or None.

    The hub is asked once. snapshot_download would retry for 24 s.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().repo_info(hub, repo_type=repo_type, revision=revision, timeout=5)
    except Exception as error:
        return error
    return None


def from_hub(source: Source, work: Path) -> str | None:
    """Downloads the parquet files of the source's hub data set and writes their rows. Raises UnavailableError.

    Returns the hub id, or None where the source has none.
    """
    if source.hub is None:
        return None
    paths = [table.path for table in source.tables.values()]
    try:
        folder = snapshot(source.hub, source.revision, paths, repo_type="dataset")
        if not all((folder / path).is_file() for path in paths):
            raise UnavailableError(f"the hub's cache lacks {' or '.join(paths)} of {source.hub}.")
    except UnavailableError as error:
        raise UnavailableError(f"{source.name}: {error} {pins.remedy(source)}") from None
    for name, table in source.tables.items():
        (work / "files" / name).write_text(
            json_lines(folder / table.path, table.columns, table.rows), newline="\n", encoding="utf-8"
        )
    return f"hub {source.hub}"
