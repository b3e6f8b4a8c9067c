"""One archive of what was run here, for a reader who has no access to the data sets: `python -m src.release [ARCHIVE]`.

Completions, scores, statistics' inputs, tables, conf, locks, checksums, CITATION.cff and RO-Crate 1.3 metadata. The
same files give the same bytes. Dataset text stays out: a cell holds a prompt's id and sha256 in its place, a task's
items hold hashes. What a model wrote is in it as it was written, and a completion can quote its prompt.

--format adds the cells in formats of other programs (docs/export.md).

Examples:
  python -m src.release
  python -m src.release dist/mine.zip
  python -m src.release --format every_eval_ever --format lm_eval
  python -m src.release --format all
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tomllib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from src.base import git
from src.base.cli import stage
from src.base.errors import UserError
from src.base.files import ROOT, whole
from src.cell.file import cell_files
from src.cell.ledger import DONE
from src.cell.released import CELLS, hashed_items, without_prompts
from src.export import parts
from src.export.formats import FORMATS, chosen, written
from src.export.parts import Exported
from src.export.ro_crate import CRATE, MANIFEST, Release, crate, manifest

COPIED = (
    "CITATION.cff", "LICENSE", "params.yaml", "dvc.yaml", "dvc.lock", "pyproject.toml", "requirements*.in",
    "requirements*.lock", "conf/**/*.yaml", "data/published/README.md", "data/published/*.csv",
    "data/published/*.yaml", "data/reference/*.csv", "data/scores.parquet", "data/tasks/summary.csv",
    "data/fidelity/*.parquet", "reports/tables/*.csv", "reports/hashes/*.csv", "reports/metrics.json",
)  # fmt: skip

QUOTES_DATA = ("data/fidelity/prompts.parquet",)
NEEDED = ("data/scores.parquet", "reports/metrics.json")
OURS = ("CITATION.cff", "dvc.yaml")
"""Files of the repository that the metadata are made of."""
EPOCH = "SOURCE_DATE_EPOCH"


def members(root: Path) -> dict[str, bytes]:
    """Every file of the archive, by path, without metadata and manifest. Raises UserError where one is missing."""
    paths = sorted({path for pattern in COPIED for path in root.glob(pattern) if path.is_file()})
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
    files = {name: content for name, content in files.items() if name not in QUOTES_DATA}
    missing = [name for name in NEEDED if name not in files]
    outputs = cell_files(root / "data/outputs")
    if missing or not outputs:
        raise UserError(f"{(missing or ['data/outputs'])[0]} is missing: nothing to release yet. Make it: dvc repro")
    if lost := [name for name in OURS if name not in files]:
        raise UserError(f"{lost[0]} is missing. It is part of the repository: git checkout {lost[0]}")
    tasks = {f"data/tasks/{path.name}": hashed_items(path) for path in sorted((root / "data/tasks").glob("*.jsonl"))}
    answered = {f"{CELLS}/{path.parent.name}/{path.name}": without_prompts(path) for path in outputs}
    return dict(sorted({**files, **tasks, **answered}.items()))


def released(root: Path) -> Release:
    """Which code makes an archive, and when. Raises UserError without git, or for a time that is none."""
    try:
        commit, _ = git.commit(root)
        when = moment(os.environ.get(EPOCH), root)
    except UserError as error:
        raise UserError(f"A release says which commit made it. {error}") from error
    return Release(version_of(root / "pyproject.toml"), commit, when, undone(root / "data/outputs"))


def undone(outputs: Path) -> tuple[str, ...]:
    """The cells that a ledger under `outputs` names and that are not done, a sentence each."""
    ledgers = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(outputs.glob("*/ledger*.json"))]
    return tuple(
        f"{e['model']}/{e['task']}/{e['condition']}: {e['status']}"
        for ledger in ledgers for e in ledger if e["status"] != DONE
    )  # fmt: skip


def moment(epoch: str | None, root: Path) -> datetime:
    """The time that an archive names: SOURCE_DATE_EPOCH where it is set, else the commit's. Never the clock's."""
    try:
        return parts.at(int(epoch) if epoch else git.committed_at(root))
    except (ValueError, OverflowError, OSError):
        raise UserError(f"{EPOCH}={epoch} is no time. Set it to seconds since 1970-01-01, or unset it") from None


def write(root: Path, archive: Path | None = None, formats: Sequence[str] = (), words: Sequence[str] = ()) -> Path:
    """The archive of a finished run under `root`, with its cells in these formats.

    words: overrides with which the cells were run, as for src.run. Raises UserError where there is no run.
    """
    release = released(root)
    files = members(root)
    if formats:
        cells = parts.parts_of(root, words)
        files |= written(formats, Exported(cells, release.version, release.commit, release.when), files)
    described = json.dumps(crate(files, release), indent=1, ensure_ascii=False) + "\n"
    files[CRATE] = described.encode()
    path = archive or root / f"dist/emergence-audit-{release.version}.zip"
    zipped(path, {**files, MANIFEST: manifest(files)})
    return path


def version_of(path: Path) -> str:
    """The project's version. Raises UserError where pyproject.toml does not say it."""
    try:
        return str(tomllib.loads(path.read_text(encoding="utf-8"))["project"]["version"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path.name} does not say the version ({error!r}). Restore it: git checkout {path.name}"
        ) from None


def zipped(path: Path, files: Mapping[str, bytes]) -> None:
    """A zip whose bytes depend on its files alone. It records no time and no owner."""
    with whole(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(files.items()):
            info = zipfile.ZipInfo(name)  # its date is 1980-01-01
            info.compress_type, info.external_attr, info.create_system = zipfile.ZIP_DEFLATED, 0o644 << 16, 3
            archive.writestr(info, content)


def unpacked(bundle: Path, folder: Path) -> list[str]:
    """Unpack into `folder`. Gives the files that differ from the manifest. Raises UserError for what is no release."""
    try:
        with zipfile.ZipFile(bundle) as archive:
            archive.extractall(folder)
        listed = (folder / MANIFEST).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, zipfile.BadZipFile, zlib.error, ValueError) as error:
        raise UserError(
            f"{bundle} is damaged or no release ({error}). Get it again, or make it: make release"
        ) from error
    wanted = {name: sha256 for sha256, _, name in (line.partition("  ") for line in listed)}
    there = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in there.items() if name != MANIFEST}
    return sorted(name for name in {*wanted, *hashes} if wanted.get(name) != hashes.get(name))


def unfinished(root: Path) -> str:
    """The files that git does not have as they are here, a line each; "" where all is committed."""
    return git.changes(["conf", "params.yaml", "dvc.yaml", "dvc.lock", "reports", "src"], root)


def main() -> None:
    """`python -m src.release`. A user's mistake is one line on stderr and exit code 1."""
    parser = argparse.ArgumentParser(
        prog="python -m src.release", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "words", nargs="*", metavar="ARCHIVE | key=value",
        help="default: dist/emergence-audit-<version>.zip; overrides with which the exported cells were run",
    )  # fmt: skip
    known = "; ".join(f"{name}: {each.words}" for name, each in FORMATS.items())
    parser.add_argument(
        "--format", action="append", default=[], metavar="NAME", help=f"the cells in this format, too ({known}; or all)"
    )
    given = parser.parse_args()
    with stage("release"):
        formats = chosen(given.format)
        archives = [Path(word) for word in given.words if "=" not in word]
        overrides = [word for word in given.words if "=" in word]
        if len(archives) > 1 or (overrides and not formats):
            raise UserError("name one ARCHIVE, and key=value only with --format: they say how exported cells were run")
        if changed := unfinished(ROOT):
            raise UserError(f"a release names one commit, and these are not in it. Commit them first:\n{changed}")
        path = write(ROOT, archives[0] if archives else None, formats, overrides)
        print(f"{path}: sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")
        print(f"check it: python -m src.verify {path} --level tables")


if __name__ == "__main__":
    main()
