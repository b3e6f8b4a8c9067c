"""Fetches what conf/ names, and checks it. `python -m src.fetch NAME [NAME ...]` fetches these sources. With
`suite=NAME [+model=NAME]` it fetches all that a suite needs (task files, weights and the scorer), so that the runs
themselves need no network.

A source is looked for in the folder $DATA_DIR first, then at the package registry (by pip, with the user's own
configuration) or at the Hugging Face hub. Nothing is left half done: files are written beside their folder, which is
renamed once every sha256 is right. Hub repositories stay in the hub's own cache (HF_HOME), each at the one commit that
conf/revisions.yaml records.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.base import conf, grid
from src.base.cli import command, stage
from src.base.conf import EXEMPLARS
from src.base.errors import UserError, disk_errors
from src.base.schema import Encoder, Model
from src.source import terms, weights
from src.source.archives import from_data_dir, from_registry, offered, publish, scratch
from src.source.hub import from_hub, in_words
from src.source.pins import (
    NOTE,
    OTHER_LIBRARIES,
    Source,
    UnavailableError,
    check,
    check_space,
    complete,
    load_source,
    remedy,
)
from src.source.weights import Weights

WAYS = (from_data_dir, from_registry, from_hub)


def gguf_to_fp32(source: Source, folder: Path) -> None:
    """Dequantises a GGUF file bit for bit to folder/fp32, with its tokenizer. It takes about 30 s, once."""
    weights.dequantise(folder / next(iter(source.files)), folder / "fp32")


def rhymes(source: Source, folder: Path) -> None:
    """Writes task.jsonl and exemplars.jsonl of the reconstructed items beside the pronouncing dictionary."""
    from src.source.rhyming import write_items

    write_items(folder / next(iter(source.files)), EXEMPLARS, source.name, folder)


CONVERSIONS: Mapping[str, Callable[[Source, Path], None]] = {"gguf": gguf_to_fp32, "rhymes": rhymes}


def fetch(source: Source, root: Path = Path()) -> str:
    """Completes the source's folder, with its converted files. Returns in a few words what was done.

    Raises UserError for a wrong hash or a full disk, and UnavailableError where nothing serves the source or its terms
    are not accepted.
    """
    terms.accept(source, root)
    target, pins = root / source.folder, {**source.files, **source.converted}
    if complete(target, pins) and not offered(source, target):
        return "already there"
    with disk_errors(source.name), scratch(target) as work:
        check_space(source, work)
        origin = next(filter(None, (way(source, work) for way in WAYS)), None)
        if origin is None:
            raise UnavailableError(f"{source.name}: no registry and no hub has it. {remedy(source)}")
        for name, pin in source.files.items():
            check(source, work / "files" / name, pin)
        if source.convert:
            CONVERSIONS[source.convert](source, work / "files")
        for name, pin in source.converted.items():
            check(source, work / "files" / name, pin, OTHER_LIBRARIES)
        publish(work / "files", target)
    return f"from {origin}" + (", converted" if source.convert else "")


def note_unavailable(source: Source, reason: str, root: Path = Path()) -> None:
    """Writes the reason into the source's folder, so that the rest of the pipeline goes on and names the gap."""
    folder = root / source.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NOTE).write_text(reason + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Need:
    """Something that a suite needs on this disk."""

    name: str
    origin: str
    size: int  # bytes still to fetch, for a source with the room that unpacking takes
    disk: Path  # a folder on the disk where they go
    get: Callable[[], str]  # fetches it and returns what was done
    problem: str | None = None  # why the hub does not serve it


def needs(settings: Mapping[str, Any], root: Path = Path()) -> list[Need]:
    """The files that the models, tasks and scorer of params-like settings need. Asks the hub for sizes."""
    owners: list[Weights] = [conf.load("model", name, Model) for name in settings["models"]]
    owners = [*owners, conf.load("bertscore", settings["encoder"], Encoder)]
    names = dict.fromkeys([*settings["sources"], *(owner.source for owner in owners if owner.source)])
    asking_first = sorted((load_source(name, root) for name in names), key=lambda source: source.terms is None)
    sources = [_source_need(source, root) for source in asking_first]
    return sources + [_hub_need(owner, root) for owner in owners if owner.hub and not owner.source and not owner.path]


def _source_need(source: Source, root: Path) -> Need:
    there = complete(root / source.folder, {**source.files, **source.converted})
    origin = source.packages or f"hub {source.hub}"
    return Need(source.name, origin, 0 if there else source.disk_bytes, root, lambda: fetch(source, root))


def _hub_need(model: Weights, root: Path) -> Need:
    from huggingface_hub import constants

    size, problem = 0, None
    try:
        size = weights.to_download(str(model.hub), weights.pinned(model, root))
    except UserError:
        raise
    except Exception as error:  # the hub's client raises its own, httpx's and the system's
        problem = in_words(error)
    return Need(
        model.name,
        f"hub {model.hub}",
        size,
        Path(constants.HF_HUB_CACHE),
        lambda: weights.located(model, root)[1],
        problem,
    )


def check_room(wanted: Sequence[Need]) -> None:
    """Raises UserError where a disk has less room than the bytes still to fetch."""
    disks: dict[int, list[Need]] = {}
    for need in wanted:
        disks.setdefault(_existing(need.disk).stat().st_dev, []).append(need)
    for on_disk in disks.values():
        folder = on_disk[0].disk
        size, free = sum(need.size for need in on_disk), shutil.disk_usage(_existing(folder)).free
        if size > free:
            raise UserError(
                f"no space: {size / 1e9:,.1f} GB are to come to the disk of {folder}, {free / 1e9:,.1f} GB are "
                f"free. Make room, set HF_HOME to a larger disk, or fetch model by model: +model=NAME"
            )


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def fetch_suite(words: Sequence[str], root: Path = Path()) -> int:
    """Prints the sizes, checks the disks and fetches all that a suite needs. Exit code 1 where something is missing."""
    settings = grid.params_with(words)
    wanted = needs(settings, root)
    for need in wanted:
        print(f"{need.name}: {need.origin}, {need.problem or f'{need.size / 1e6:,.0f} MB to come'}", flush=True)
    check_room(wanted)
    missing = [problem for need in wanted if (problem := _problem_of(need))]
    print(f"suite {settings['suite']}: {len(wanted) - len(missing)} of {len(wanted)} are here.")
    for problem in missing:
        print(f"error: {problem}", file=sys.stderr)
    if not missing:
        print("Runs need no network from here on: HF_HUB_OFFLINE=1")
    return int(bool(missing))


def _problem_of(need: Need) -> str | None:
    """Fetches one thing and prints its line. Returns the problem where that fails, so that the others still come."""
    start = time.perf_counter()
    try:
        with disk_errors(need.name):
            done = need.get()
    except UserError as error:
        return str(error)
    print(f"{need.name}: {done} ({time.perf_counter() - start:.1f} s)", flush=True)
    return None


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments of the command line."""
    parser = command("fetch", __doc__, "bigbench", "suite=paper +model=llama_7b", "rhyming --incomplete report")
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help="names in conf/source, or suite=NAME and +model=NAME: all these need"
    )
    parser.add_argument(
        "--incomplete",
        choices=["fail", "report"],
        default="fail",
        help=f"what to do where nothing serves a source: fail, or leave the reason in its folder ({NOTE}) and go on",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0, or 1 with one `error: ...` line."""
    arguments = parse(argv)
    with stage("fetch", here=True):
        if any("=" in name for name in arguments.names):
            return fetch_suite(arguments.names)
        for source in [load_source(name) for name in arguments.names]:
            _report(source, arguments.incomplete == "report")
    return 0


def _report(source: Source, go_on: bool) -> None:
    """Fetches one source and prints its line."""
    start = time.perf_counter()
    try:
        done = fetch(source)
    except UnavailableError as error:
        if not go_on:
            raise
        note_unavailable(source, str(error))
        done = f"not available. {error}"
    print(f"{source.name}: {source.folder}: {done} ({time.perf_counter() - start:.1f} s)", flush=True)


if __name__ == "__main__":
    sys.exit(main())
