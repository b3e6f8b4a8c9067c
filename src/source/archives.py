"""Sources out of $DATA_DIR or the package registry. pip downloads an archive, and its files are taken out."""

from __future__ import annotations

import errno
import gzip
import inspect
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from src.base.errors import UserError
from src.source import pins
from src.source.pins import Source, UnavailableError

FULL = (errno.ENOSPC, errno.EDQUOT)  # of a full disk


@contextmanager
def scratch(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target`, removed at the end.

    It first removes those that killed processes have left.
    """
    from psutil import pid_exists

    target.parent.mkdir(parents=True, exist_ok=True)
    for old in target.parent.glob(f".{target.name}.*"):
        owner = old.name.rpartition(".")[2]
        if owner.isdigit() and (int(owner) == os.getpid() or not pid_exists(int(owner))):
            shutil.rmtree(old, ignore_errors=True)
    folder = target.parent / f".{target.name}.{os.getpid()}"
    (folder / "files").mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(made: Path, target: Path) -> None:
    """Renames the folder `made` to `target`, in place of what was there."""
    if target.exists():
        target.rename(made.parent / "old")
    made.rename(target)


def save(stream: IO[bytes], path: Path) -> None:
    """Copies an open file to `path` and makes the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        shutil.copyfileobj(stream, file, 1 << 20)


def wheel_members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """(name, open file) of every member of a wheel."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as stream:
                yield name, stream


def sdist_members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """(name, open file) of every file of a .tar.gz, in one pass. Read each before you take the next.

    By gzip, because tarfile's own pass ends with the first of several gzip members.
    """
    with gzip.open(path) as plain, tarfile.open(fileobj=plain, mode="r|") as archive:
        for member in archive:
            stream = archive.extractfile(member)
            if stream is not None:
                yield member.name, stream


def unpack(source: Source, archive: Path, into: Path) -> None:
    """Takes the files of the source out of its archive, and no others. Raises UserError where one is missing."""
    pins.check(source, archive, source.archive_sha256)
    wanted = {f"{source.inside}/{name}".lstrip("/"): name for name in source.files}
    try:
        for member, stream in kind_of(archive).members(archive):
            if member in wanted:
                save(stream, into / wanted.pop(member))
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"{source.name}: {archive.name} is damaged ({error}). Fetch it again.") from None
    if wanted:
        raise UserError(f"{source.name}: {archive.name} does not hold {', '.join(wanted)}")


def pip_download(package: str, folder: Path, *options: str) -> None:
    """`pip download --no-deps` into `folder`. Raises UnavailableError with the last line of pip's error."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), *options, package]
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", env={**os.environ, "TMPDIR": str(folder)}
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["(nothing)"]
        last = [line for line in lines if line.startswith("ERROR")] or lines
        mistake = UserError if "No space left" in done.stderr else UnavailableError
        raise mistake(f"pip could not download {package}. It said: {last[-1].strip()}")


def download_wheel(package: str, folder: Path) -> None:
    """Downloads a package's wheel. Raises UnavailableError."""
    pip_download(package, folder, "--only-binary", package.split("==")[0])


def download_sdist(package: str, folder: Path) -> None:
    """Downloads a package's sdist. Its setup.py is not run if pip offers a way. Raises UnavailableError."""
    try:
        _sdist_by_finder(package, folder)
    except Exception as error:  # pip's private API may fail in any way: then plain pip decides
        if getattr(error, "errno", None) in FULL:
            raise
        shutil.rmtree(folder)  # pip would take a partly downloaded file for the whole
        folder.mkdir()
        pip_download(package, folder, "--no-binary", package.split("==")[0])


def _sdist_by_finder(package: str, folder: Path) -> None:
    """Finds and downloads an sdist with pip's own classes, so that all of the user's pip configuration applies.

    `pip download` would unpack the sdist and run its setup.py, for metadata that nothing here reads.
    """
    name, version = package.split("==")
    module: Callable[[str], Any] = import_module
    command = module("pip._internal.commands").create_command("download")
    temporary = module("pip._internal.utils.temp_dir")
    downloader = module("pip._internal.network.download").Downloader
    wanted = module("pip._vendor.packaging.specifiers").SpecifierSet(f"=={version}")
    logging.getLogger("pip").setLevel(logging.ERROR)
    bar = [] if sys.stdout.isatty() else ["--progress-bar", "off"]
    with command.main_context():
        command.tempdir_registry = command.enter_context(temporary.tempdir_registry())
        command.enter_context(temporary.global_tempdir_manager())
        options, _ = command.parse_args(["--no-binary", name, *bar, package])
        session = command.get_default_session(options)
        finder = command._build_package_finder(options, session)
        link = finder.find_best_candidate(name, wanted).best_candidate.link
        retries = [options.resume_retries] if "resume_retries" in inspect.signature(downloader).parameters else []
        downloader(session, options.progress_bar, *retries)(link, str(folder))


@dataclass(frozen=True)
class Kind:
    """How one kind of archive is downloaded and read."""

    download: Callable[[str, Path], None]
    members: Callable[[Path], Iterator[tuple[str, IO[bytes]]]]


KINDS: Mapping[str, Kind] = {
    ".whl": Kind(download_wheel, wheel_members),
    ".tar.gz": Kind(download_sdist, sdist_members),
}


def kind_of(archive: Path) -> Kind:
    """How an archive of this name is downloaded and read."""
    return next(kind for suffix, kind in KINDS.items() if archive.name.endswith(suffix))


def from_data_dir(source: Source, work: Path) -> str | None:
    """Copies the files out of $DATA_DIR, or out of the source's archive there. Either may lie in a subfolder <name>.

    Returns where they came from, or None where $DATA_DIR does not have them.
    """
    if not os.environ.get("DATA_DIR"):
        return None
    folder = Path(os.environ["DATA_DIR"]).expanduser()
    if not folder.is_dir():
        raise UserError(f"DATA_DIR={folder} is no folder. Point it to one that holds the files, or unset it.")
    for base in (folder / source.name, folder):
        if all((base / name).is_file() for name in source.files):
            for name in (*source.files, *(name for name in source.optional if (base / name).is_file())):
                with (base / name).open("rb") as stream:
                    save(stream, work / "files" / name)
            return "DATA_DIR"
        if source.archive and (base / source.archive).is_file():
            unpack(source, base / source.archive, work / "files")
            return f"{source.archive} in DATA_DIR"
    return None


def from_registry(source: Source, work: Path) -> str | None:
    """Downloads the source's package and unpacks the files. Returns the package, or None where the source has none.

    Raises UnavailableError where no registry serves it.
    """
    if source.package is None or source.archive is None:
        return None
    downloads = work / "archive"
    downloads.mkdir()
    archive = downloads / source.archive
    try:
        kind_of(archive).download(source.package, downloads)
    except UnavailableError as error:
        raise UnavailableError(f"{source.name}: {error}. {pins.remedy(source)}") from None
    if not archive.is_file():
        names = ", ".join(p.name for p in downloads.iterdir() if p.is_file()) or "nothing"
        raise UserError(f"{source.name}: the registry sent {names} for {source.package}, not {source.archive}")
    unpack(source, archive, work / "files")
    return source.package


def offered(source: Source, target: Path) -> list[str]:
    """The optional files that $DATA_DIR holds and `target` lacks."""
    if not os.environ.get("DATA_DIR"):
        return []
    folder = Path(os.environ["DATA_DIR"]).expanduser()
    return [
        name
        for name in source.optional
        if not (target / name).is_file() and any((base / name).is_file() for base in (folder / source.name, folder))
    ]
