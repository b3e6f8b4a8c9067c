"""Gets what conf/ names, and checks it. `python -m src.fetch NAME [NAME ...]`, or `suite=NAME [+model=NAME]` for all
that a suite needs: task files, weights and the scorer, so that the runs themselves need no network.

A source is looked for in the folder $DATA_DIR first, then at the package registry (by pip, with the user's own
configuration) or at the Hugging Face hub. Nothing is left half done: files are written beside their folder and
renamed once every sha256 is right. Hub repositories stay in the hub's own cache (HF_HOME), each at the one commit that
conf/revisions.yaml records.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import functools
import hashlib
import inspect
import json
import logging
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.config import EXEMPLARS, Encoder, Model, UserError, command, composed_params, load, params, told

SOURCES = Path("conf/source")
REVISIONS = Path("conf/revisions.yaml")  # hub id -> 40-digit commit
UNREADABLE_GGUF = (ValueError, LookupError, OSError, NotImplementedError, struct.error)
"""What the gguf package and transformers raise for a damaged file, and (the fourth) for a quantisation they lack."""
GGUF = Path("data/gguf")  # GGUF files of the user's own, dequantised
FULL = (errno.ENOSPC, errno.EDQUOT)
NOTE = "UNAVAILABLE.txt"  # stands in a source's folder where it could not be had
WEIGHTS = ("*.safetensors", "*.bin")  # the second only where a checkpoint has none of the first
BESIDE_WEIGHTS = (
    "config.json", "generation_config.json", "tokenizer*", "*.model", "vocab*", "merges.txt", "special*",
    "added_tokens*", "*.index.json",
)  # fmt: skip


Weights = Model | Encoder  # both say where their weights come from in the same words


class UnavailableError(UserError):
    """Nothing that holds the source can be reached from here."""


@dataclass
class Table:
    """Rows of one parquet file of a hub data set."""

    path: str = MISSING  # inside the hub repository
    columns: list[str] = MISSING
    rows: list[int] | None = None  # indices, in this order; None is all of them


@dataclass
class Source:
    """A pinned download (conf/source/<name>.yaml). A sha256 is 64 hex digits."""

    name: str = MISSING
    licence: str = MISSING
    folder: str = MISSING  # where its files end
    files: dict[str, str] = MISSING  # path inside the folder -> sha256
    disk_bytes: int = MISSING  # free space needed while fetching
    optional: list[str] = field(default_factory=list)  # files it is complete without, taken along unpinned where given
    package: str | None = None  # "<name>==<version>" at the package registry
    archive: str | None = None  # the package's file, a .whl or .tar.gz
    archive_sha256: str | None = None
    inside: str = ""  # the folder of the archive that `files` are relative to
    hub: str | None = None  # Hugging Face hub id of a data set
    revision: str | None = None  # 40-digit commit of the hub repository
    tables: dict[str, Table] = field(default_factory=dict)  # name in `files` -> where its rows are
    convert: str | None = None  # a key of CONVERSIONS
    converted: dict[str, str] = field(default_factory=dict)  # what it makes of them: path inside the folder -> sha256


def load_source(name: str, root: Path = Path()) -> Source:
    """conf/source/<name>.yaml. Raises UserError on an unknown name, an unknown key or a missing value."""
    path = root / SOURCES / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.yaml"))
        near = difflib.get_close_matches(name, known)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"Unknown source {name!r}.{hint} Known ({SOURCES}/*.yaml): {', '.join(known)}")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Source), OmegaConf.load(path))
        source = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise UserError(f"{SOURCES}/{name}.yaml: {str(error).splitlines()[0]}") from None
    assert isinstance(source, Source)
    return source


# --- checks ---------------------------------------------------------------------------------------------------


def sha256(path: Path) -> str:
    """Of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


DAMAGED = "It came damaged or is another version. Where it lies in DATA_DIR, replace it; otherwise fetch it again."
OTHER_LIBRARIES = "The conversion gave other bytes: install the versions of requirements.lock, or renew the pin."


def check(source: Source, path: Path, expected: str | None, hint: str = DAMAGED) -> None:
    """Raises UserError where a file's sha256 is not the pinned one; None pins nothing."""
    got = sha256(path) if expected else None
    if got != expected:
        raise UserError(
            f"{source.name}: {path.name} has sha256 {got}, {SOURCES}/{source.name}.yaml expects {expected}. {hint}"
        )


def complete(folder: Path, files: Mapping[str, str]) -> bool:
    """Whether every file is there with the right sha256."""
    return all((folder / name).is_file() and sha256(folder / name) == pin for name, pin in files.items())


def check_space(source: Source, folder: Path) -> None:
    """Raises UserError where the disk of `folder` has less room than fetching needs."""
    free = shutil.disk_usage(folder).free
    if free < source.disk_bytes:
        raise UserError(
            f"{source.name}: no space. Fetching needs {source.disk_bytes / 1e6:,.0f} MB on the disk of "
            f"{source.folder}, {free / 1e6:,.0f} MB are free."
        )


# --- writing --------------------------------------------------------------------------------------------------


@contextmanager
def scratch(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target`, gone afterwards; so are those that killed processes left."""
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
    """Renames the whole folder `made` to `target`; what stood there goes."""
    if target.exists():
        target.rename(made.parent / "old")
    made.rename(target)


def save(stream: IO[bytes], path: Path) -> None:
    """Copies an open file to `path`, making its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        shutil.copyfileobj(stream, file, 1 << 20)


# --- archives -------------------------------------------------------------------------------------------------


def wheel_members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """(name, open file) of every member of a wheel."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as stream:
                yield name, stream


def sdist_members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """(name, open file) of every file of a .tar.gz, in one pass; each must be read before the next is asked for."""
    with tarfile.open(path, "r|gz") as archive:
        for member in archive:
            stream = archive.extractfile(member)
            if stream is not None:
                yield member.name, stream


def unpack(source: Source, archive: Path, into: Path) -> None:
    """Takes the source's files out of its archive, and nothing else. Raises UserError where one is missing."""
    check(source, archive, source.archive_sha256)
    wanted = {f"{source.inside}/{name}".lstrip("/"): name for name in source.files}
    try:
        for member, stream in _kind(archive).members(archive):
            if member in wanted:
                save(stream, into / wanted.pop(member))
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{source.name}: {archive.name} is damaged ({error}). Fetch it again.") from None
    if wanted:
        raise UserError(f"{source.name}: {archive.name} does not hold {', '.join(wanted)}")


# --- pip ------------------------------------------------------------------------------------------------------


def pip_download(package: str, folder: Path, *options: str) -> None:
    """`pip download --no-deps` into `folder`. Raises UnavailableError with what pip said last."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), *options, package]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TMPDIR": str(folder)})
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["(nothing)"]
        last = [line for line in lines if line.startswith("ERROR")] or lines
        mistake = UserError if "No space left" in done.stderr else UnavailableError
        raise mistake(f"pip could not download {package}. It said: {last[-1].strip()}")


def download_wheel(package: str, folder: Path) -> None:
    """Downloads a package's wheel. Raises UnavailableError."""
    pip_download(package, folder, "--only-binary", package.split("==")[0])


def download_sdist(package: str, folder: Path) -> None:
    """Downloads a package's sdist, without running its setup.py if pip lets us. Raises UnavailableError."""
    try:
        _sdist_by_finder(package, folder)
    except Exception as error:  # pip's private API: whatever goes wrong there, plain pip has the last word
        if getattr(error, "errno", None) in FULL:
            raise
        shutil.rmtree(folder)  # pip would take a part of a file for the whole
        folder.mkdir()
        pip_download(package, folder, "--no-binary", package.split("==")[0])


def _sdist_by_finder(package: str, folder: Path) -> None:
    """Finds and downloads an sdist with pip's own parts, so that the user's whole configuration applies.

    `pip download` itself would run the sdist's setup.py for metadata that nobody needs, and unpack it all for that.
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


def _kind(archive: Path) -> Kind:
    return next(kind for suffix, kind in KINDS.items() if archive.name.endswith(suffix))


# --- the ways to a source: each returns where the files came from, or None where it does not apply ---------------


def from_data_dir(source: Source, work: Path) -> str | None:
    """Copies the files out of $DATA_DIR, or out of the source's archive there. Either may be in a folder <name>."""
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
    """Downloads the package and unpacks the files. Raises UnavailableError where no registry serves it."""
    if source.package is None or source.archive is None:
        return None
    brought = work / "archive"
    brought.mkdir()
    archive = brought / source.archive
    try:
        _kind(archive).download(source.package, brought)
    except UnavailableError as error:
        raise UnavailableError(f"{source.name}: {error}. {_help(source)}") from None
    if not archive.is_file():
        got = ", ".join(p.name for p in brought.iterdir() if p.is_file()) or "nothing"
        raise UserError(f"{source.name}: the registry sent {got} for {source.package}, not {source.archive}")
    unpack(source, archive, work / "files")
    return source.package


def from_hub(source: Source, work: Path) -> str | None:
    """Downloads parquet files of a hub data set and writes their rows. Raises UnavailableError."""
    if source.hub is None:
        return None
    paths = [table.path for table in source.tables.values()]
    try:
        folder = snapshot(source.hub, source.revision, paths, repo_type="dataset")
        if not all((folder / path).is_file() for path in paths):
            raise UnavailableError(f"the hub's cache lacks {' or '.join(paths)} of {source.hub}.")
    except UnavailableError as error:
        raise UnavailableError(f"{source.name}: {error} {_help(source)}") from None
    for name, table in source.tables.items():
        (work / "files" / name).write_text(json_lines(folder / table.path, table.columns, table.rows), newline="\n")
    return f"hub {source.hub}"


WAYS = (from_data_dir, from_registry, from_hub)


def _help(source: Source) -> str:
    """What a user can do where nothing serves a source."""
    offer = f"the file {source.archive}, or " if source.archive else ""
    names = list(source.files)
    listed = ", ".join(names[:3]) + (f" and the other {len(names) - 3}" if len(names) > 3 else "")
    return (
        f"Get it on another machine: put {offer}{listed} into a folder and set the environment variable DATA_DIR "
        f"to it, then run again (as a DVC stage: dvc repro -f)."
    )


def json_lines(parquet: Path, columns: list[str], rows: list[int] | None = None) -> str:
    """The columns of a parquet file as JSON lines, one row each, ASCII only; `rows` picks and orders by index."""
    import pyarrow.parquet as pq

    table = pq.read_table(parquet, columns=columns).select(columns)
    picked = table if rows is None else table.take(rows)
    return "".join(json.dumps(row) + "\n" for row in picked.to_pylist())


def snapshot(hub: str, revision: str | None, patterns: Iterable[str], repo_type: str = "model") -> Path:
    """Local folder of a hub repository's files that match. HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE apply.

    Where the hub does not answer, what the cache has; raises UnavailableError within seconds where that is nothing.
    """
    from huggingface_hub import snapshot_download

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
"""What the hub's client means, by the name of its error or by the status of the answer."""


def in_words(error: Exception) -> str:
    """A hub error as a sentence for the user, without its full stop."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    known = WORDS.get(type(error).__name__) or WORDS.get(status)
    return known or str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__


def _refusal(hub: str, revision: str | None, repo_type: str) -> Exception | None:
    """What stands between us and a hub repository, asked once: snapshot_download would retry for 24 s."""
    from huggingface_hub import HfApi

    try:
        HfApi().repo_info(hub, repo_type=repo_type, revision=revision, timeout=5)
    except Exception as error:
        return error
    return None


# --- conversions ----------------------------------------------------------------------------------------------


def gguf_to_fp32(source: Source, folder: Path) -> None:
    """Dequantises a GGUF file bit for bit to folder/fp32, with tokenizer: about 30 s once, not at every load."""
    dequantise(folder / next(iter(source.files)), folder / "fp32")


def dequantise(file: Path, into: Path) -> None:
    """Writes a GGUF file's weights in fp32, and its tokenizer, as `save_pretrained` does."""
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # read by tqdm when it is imported
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    model.hf_quantizer = None  # all weights are plain fp32 by now, yet save_pretrained would refuse them as packed
    del model.config.quantization_config
    model.save_pretrained(into)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(into)
    for path in into.iterdir():
        path.chmod(0o644)  # safetensors writes for its owner alone


def rhymes(source: Source, folder: Path) -> None:
    """Writes task.jsonl and exemplars.jsonl of the reconstructed items beside the pronouncing dictionary."""
    from src.rhyming import write_items

    write_items(folder / next(iter(source.files)), EXEMPLARS, source.name, folder)


CONVERSIONS: Mapping[str, Callable[[Source, Path], None]] = {"gguf": gguf_to_fp32, "rhymes": rhymes}


# --- fetching -------------------------------------------------------------------------------------------------


def fetch(source: Source, root: Path = Path()) -> str:
    """Makes the source's folder complete, converted files included; says in a few words what was done.

    Raises UserError on a wrong hash, no space, or nothing that serves the source (UnavailableError).
    """
    target, pins = root / source.folder, {**source.files, **source.converted}
    if complete(target, pins) and not offered(source, target):
        return "already there"
    with told(source.name), scratch(target) as work:
        check_space(source, work)
        origin = next(filter(None, (way(source, work) for way in WAYS)), None)
        if origin is None:
            raise UnavailableError(f"{source.name}: no registry and no hub has it. {_help(source)}")
        for name, pin in source.files.items():
            check(source, work / "files" / name, pin)
        if source.convert:
            CONVERSIONS[source.convert](source, work / "files")
        for name, pin in source.converted.items():
            check(source, work / "files" / name, pin, OTHER_LIBRARIES)
        publish(work / "files", target)
    return f"from {origin}" + (", converted" if source.convert else "")


def offered(source: Source, target: Path) -> list[str]:
    """Optional files that $DATA_DIR holds and `target` lacks."""
    if not os.environ.get("DATA_DIR"):
        return []
    given = Path(os.environ["DATA_DIR"]).expanduser()
    return [
        name
        for name in source.optional
        if not (target / name).is_file() and any((base / name).is_file() for base in (given / source.name, given))
    ]


def note_unavailable(source: Source, reason: str, root: Path = Path()) -> None:
    """Leaves a folder that holds the reason alone, so that the rest of the pipeline can go on and name the gap."""
    folder = root / source.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NOTE).write_text(reason + "\n")


# --- weights --------------------------------------------------------------------------------------------------


def weights(model: Weights, root: Path = Path()) -> tuple[Path, str]:
    """(folder, identity) of a model's weights: its local `path`, else its fetched `source`, else the hub.

    The identity is the sha256 over file names and contents, or `<hub>@<commit>`; it tells one checkpoint from another,
    wherever it lies. Raises UserError that says what would help.
    """
    if model.path:
        return _local(model, root / Path(model.path).expanduser(), root)
    if model.source:
        return _fetched(model, root)
    if model.hub:
        return _hub(model, root)
    gate = model.gate or "No hub is known to serve it."
    raise UserError(f"{model.name}: no weights. {gate} With the weights in a folder: model.path=/that/folder")


def on_disk(model: Model, root: Path = Path()) -> Path | None:
    """Where a model's weights are on this disk, unchecked; None where they are not. Asks no hub, hashes nothing."""
    if model.path:
        given = root / Path(model.path).expanduser()
        return given if given.exists() else None
    if model.source:
        try:
            return source_folder(model, root)
        except UserError:
            return None
    if not model.hub:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model.hub, "config.json", revision=pinned(model, root))
    return Path(found).parent if isinstance(found, str) else None


def tokenizer(model: Model, root: Path = Path()) -> Any:
    """The model's own tokenizer (tokenizers.Tokenizer) where its tokenizer.json is on this disk, else None."""
    folder = on_disk(model, root)
    return _tokenizer(folder / "tokenizer.json") if folder and (folder / "tokenizer.json").is_file() else None


@functools.cache
def _tokenizer(file: Path) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(file))


def identity(folder: Path, names: Iterable[str]) -> str:
    """sha256 over the files' names and contents, whatever their order."""
    listed = "".join(f"{name} {sha256(folder / name)}\n" for name in sorted(set(names)))
    return f"sha256:{hashlib.sha256(listed.encode()).hexdigest()}"


def _local(model: Weights, folder: Path, root: Path) -> tuple[Path, str]:
    if folder.suffix == ".gguf" and folder.is_file():
        return _dequantised(folder, root / GGUF)
    if not folder.is_dir():
        raise UserError(
            f"{model.name}: model.path={model.path} is no folder. Point it to one with *.safetensors, or to a *.gguf "
            "file."
        )
    if not _weight_files(folder):
        raise UserError(f"{model.name}: {model.path} holds no {' or '.join(WEIGHTS)}. Convert the checkpoint first.")
    beside = [p.name for pattern in BESIDE_WEIGHTS for p in folder.glob(pattern)]
    return folder, identity(folder, [*_weight_files(folder), *beside])


def _dequantised(file: Path, cache: Path) -> tuple[Path, str]:
    """(folder, identity) of a GGUF file, dequantised once."""
    content = sha256(file)
    into = cache / content[:16]
    if not into.is_dir():
        with scratch(into) as folder:
            try:
                with told(file.name):
                    dequantise(file, folder / "files")
            except UNREADABLE_GGUF as error:
                raise UserError(
                    f"{file} cannot be read as GGUF: {error}. Get it again, or one of another kind, or save the "
                    "checkpoint as a folder of *.safetensors"
                ) from None
            publish(folder / "files", into)
    return into, f"gguf:{content}"


def _fetched(model: Weights, root: Path) -> tuple[Path, str]:
    source = load_source(str(model.source), root)
    return source_folder(model, root), identity(root / source.folder, source.converted or source.files)


def source_folder(model: Weights, root: Path = Path()) -> Path:
    """The folder that a fetched source's weights are in. Raises UserError where one of its files is missing."""
    source = load_source(str(model.source), root)
    pins = source.converted or source.files
    if not all((root / source.folder / name).is_file() for name in pins):
        raise UserError(
            f"{model.name}: its weights are not in {source.folder}. Fetch them: python -m src.fetch {source.name}"
        )
    return root / source.folder / next(Path(name).parent for name in pins if name.endswith(".safetensors"))


def _hub(model: Weights, root: Path) -> tuple[Path, str]:
    revision = pinned(model, root)
    try:
        folder = snapshot(str(model.hub), revision, (WEIGHTS[0], *BESIDE_WEIGHTS))
        if not _weight_files(folder):
            folder = snapshot(str(model.hub), revision, (WEIGHTS[1], *BESIDE_WEIGHTS))
    except UnavailableError as error:
        raise UnavailableError(f"{model.name}: {error}{_hub_help(model)}") from None
    if not _weight_files(folder):
        raise UnavailableError(f"{model.name}: {model.hub} holds no weights in the local cache.{_hub_help(model)}")
    if revision is None:
        record(str(model.hub), folder.name, root)
    return folder, f"{model.hub}@{folder.name}"


def pinned(model: Weights, root: Path = Path()) -> str | None:
    """The commit a model is taken at; None before its first download. Raises UserError where two are named."""
    known = recorded(root).get(str(model.hub))
    if known and model.revision and model.revision != known:
        raise UserError(
            f"{model.name}: {REVISIONS} records {model.hub} at {known}, its configuration or model.revision says "
            f"{model.revision}. The two are never mixed: change or remove the line in {REVISIONS}."
        )
    return model.revision or known


def recorded(root: Path = Path()) -> dict[str, str]:
    """Hub id -> commit, as conf/revisions.yaml has them; {} without the file."""
    import yaml

    path = root / REVISIONS
    found = (yaml.safe_load(path.read_text()) or {}) if path.is_file() else {}
    return {str(hub): str(commit) for hub, commit in found.items()}


def record(hub: str, commit: str, root: Path = Path()) -> None:
    """Appends what the first download of a hub repository got, for git to keep; said where that cannot be written."""
    try:
        with (root / REVISIONS).open("a") as file:
            file.write(f"{hub}: '{commit}'\n")
    except OSError as error:
        warnings.warn(f"{REVISIONS} cannot be written ({error.strerror}). Add by hand: {hub}: '{commit}'", stacklevel=3)


def _hub_help(model: Weights) -> str:
    gate = f" About these weights: {model.gate.rstrip(chr(46))}." if model.gate else ""
    return (
        f"{gate} What helps: a network that reaches the hub or a mirror (HF_ENDPOINT), a token of an account that may "
        f"read it (HF_TOKEN), HF_HOME of a cache that has it, or the weights in a folder: model.path=/that/folder"
    )


def _weight_files(folder: Path) -> list[str]:
    """Names of the weight files: safetensors, or where there are none, the older kind."""
    return next(filter(None, ([p.name for p in folder.glob(pattern)] for pattern in WEIGHTS)), [])


# --- all that a suite needs -----------------------------------------------------------------------------------


def composed(words: Sequence[str]) -> dict[str, Any]:
    """params.yaml, or what these overrides compose: suite=NAME, +model=NAME, limit=8, ... Raises UserError."""
    suite = [] if any(word.startswith("suite=") for word in words) else [f"suite={params()['suite']}"]
    models = [word.partition("=")[2] for word in words if word.lstrip("+").startswith("model=")]
    rest = [word for word in words if not word.lstrip("+").startswith("model=")]
    return composed_params([*suite, *rest, *([f"models=[{','.join(models)}]"] if models else [])])


@dataclass(frozen=True)
class Need:
    """Something that a suite needs on this disk."""

    name: str
    origin: str
    size: int  # bytes still to come; a source's include the room that unpacking takes
    disk: Path  # where they go
    get: Callable[[], str]  # fetches it and says what was done
    problem: str | None = None  # why the hub does not give it


def needs(found: Mapping[str, Any], root: Path = Path()) -> list[Need]:
    """What the models, tasks and scorer of params-like settings take that is no API. Asks the hub for sizes."""
    owners: list[Weights] = [load("model", name, Model) for name in found["models"]]
    owners = [*owners, load("bertscore", found["encoder"], Encoder)]
    names = dict.fromkeys([*found["sources"], *(owner.source for owner in owners if owner.source)])
    sources = [_source_need(load_source(name, root), root) for name in names]
    return sources + [_hub_need(owner, root) for owner in owners if owner.hub and not owner.source and not owner.path]


def _source_need(source: Source, root: Path) -> Need:
    there = complete(root / source.folder, {**source.files, **source.converted})
    origin = source.package or f"hub {source.hub}"
    return Need(source.name, origin, 0 if there else source.disk_bytes, root, lambda: fetch(source, root))


def _hub_need(model: Weights, root: Path) -> Need:
    from huggingface_hub import constants

    size, problem = 0, None
    try:
        size = to_download(str(model.hub), pinned(model, root))
    except UserError:
        raise
    except Exception as error:  # the hub's client raises its own, httpx's and the system's
        problem = in_words(error)
    return Need(
        model.name, f"hub {model.hub}", size, Path(constants.HF_HUB_CACHE), lambda: weights(model, root)[1], problem
    )


def to_download(hub: str, revision: str | None) -> int:
    """Bytes that the cache lacks of a hub repository. Raises what the hub's client raises."""
    from huggingface_hub import HfApi, snapshot_download

    HfApi().repo_info(hub, revision=revision, timeout=5)  # refuses within seconds, where the next line would retry
    for pattern in WEIGHTS:
        found = snapshot_download(hub, revision=revision, allow_patterns=[pattern, *BESIDE_WEIGHTS], dry_run=True)
        if any(Path(file.filename).match(pattern) for file in found):
            break
    return sum(file.file_size for file in found if file.will_download)


def check_room(wanted: Sequence[Need]) -> None:
    """Raises UserError where a disk has less room than what is still to come needs."""
    disks: dict[int, list[Need]] = {}
    for need in wanted:
        disks.setdefault(_existing(need.disk).stat().st_dev, []).append(need)
    for held in disks.values():
        size, free = sum(need.size for need in held), shutil.disk_usage(_existing(held[0].disk)).free
        if size > free:
            raise UserError(
                f"no space: {size / 1e9:,.1f} GB are to come to the disk of {held[0].disk}, {free / 1e9:,.1f} GB are "
                f"free. Make room, set HF_HOME to a larger disk, or fetch model by model: +model=NAME"
            )


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def fetch_suite(words: Sequence[str], root: Path = Path()) -> int:
    """Fetches all that a suite needs, sizes and disk first. Exit code 1 where something could not be had."""
    found = composed(words)
    wanted = needs(found, root)
    for need in wanted:
        print(f"{need.name}: {need.origin}, {need.problem or f'{need.size / 1e6:,.0f} MB to come'}", flush=True)
    check_room(wanted)
    missing = [problem for need in wanted if (problem := _got(need))]
    print(f"suite {found['suite']}: {len(wanted) - len(missing)} of {len(wanted)} are here.")
    for problem in missing:
        print(f"error: {problem}", file=sys.stderr)
    if not missing:
        print("Runs need no network from here on: HF_HUB_OFFLINE=1")
    return int(bool(missing))


def _got(need: Need) -> str | None:
    """Fetches one thing and prints its line; why not, where it cannot be had, so that the others still come."""
    start = time.perf_counter()
    try:
        with told(need.name):
            done = need.get()
    except UserError as error:
        return str(error)
    print(f"{need.name}: {done} ({time.perf_counter() - start:.1f} s)", flush=True)
    return None


# --- command --------------------------------------------------------------------------------------------------


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Command line."""
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
    try:
        if any("=" in name for name in arguments.names):
            return fetch_suite(arguments.names)
        for source in [load_source(name) for name in arguments.names]:
            _report(source, arguments.incomplete == "report")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
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
