"""One archive of what was run here, for a reader who has no access to the data sets: `python -m src.release [ARCHIVE]`.

Completions, scores, statistics' inputs, tables, conf, locks, checksums, CITATION.cff and RO-Crate 1.1 metadata. The
same files give the same bytes. Dataset text stays out: a cell holds a prompt's id and sha256 in its place, a task's
items hold hashes. What a model wrote is in it as it was written, and a completion can quote its prompt.

Examples:
  python -m src.release
  python -m src.release dist/mine.zip
"""

from __future__ import annotations

import argparse
import hashlib
import json
import mimetypes
import tomllib
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.base import git
from src.base.cli import stage
from src.base.errors import UserError
from src.base.files import ROOT, whole
from src.cell.file import cell_files
from src.cell.released import CELLS, hashed_items, without_prompts

COPIED = (
    "CITATION.cff", "LICENSE", "params.yaml", "dvc.yaml", "dvc.lock", "pyproject.toml", "requirements*.in",
    "requirements*.lock", "conf/**/*.yaml", "data/published/README.md", "data/published/*.csv",
    "data/published/*.yaml", "data/reference/*.csv", "data/scores.parquet", "data/tasks/summary.csv",
    "data/fidelity/*.parquet", "reports/tables/*.csv", "reports/hashes/*.csv", "reports/metrics.json",
)  # fmt: skip

QUOTES_DATA = ("data/fidelity/prompts.parquet",)
NEEDED = ("data/scores.parquet", "reports/metrics.json")
CRATE, MANIFEST = "ro-crate-metadata.json", "manifest-sha256.txt"
LICENCE = "https://spdx.org/licenses/Apache-2.0"
LICENCES = {"data/published/": "https://spdx.org/licenses/CC-BY-SA-4.0"}
WORDS = (
    "Completions, scores and tables, without dataset text. Prompts and items stand as hashes; they are rebuilt from "
    "the data sets, which have their own licences. Completions are the model's own words, kept as written: one can "
    "quote its prompt, and with it an option or a phrase of an item."
)


def members(root: Path) -> dict[str, bytes]:
    """Every file of the archive, by path, without metadata and manifest. Raises UserError where one is missing."""
    paths = sorted({path for pattern in COPIED for path in root.glob(pattern) if path.is_file()})
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
    files = {name: content for name, content in files.items() if name not in QUOTES_DATA}
    missing = [name for name in NEEDED if name not in files]
    outputs = cell_files(root / "data/outputs")
    if missing or not outputs:
        raise UserError(f"{(missing or ['data/outputs'])[0]} is missing: nothing to release yet. Make it: dvc repro")
    tasks = {f"data/tasks/{path.name}": hashed_items(path) for path in sorted((root / "data/tasks").glob("*.jsonl"))}
    answered = {f"{CELLS}/{path.parent.name}/{path.name}": without_prompts(path) for path in outputs}
    return dict(sorted({**files, **tasks, **answered}.items()))


def crate(files: Mapping[str, bytes], version: str, date: str, commit: str) -> dict[str, Any]:
    """RO-Crate 1.1 metadata. date: ISO 8601, of the commit."""
    descriptor = {
        "@id": CRATE, "@type": "CreativeWork", "about": {"@id": "./"},
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
    }  # fmt: skip
    parts = [*files, MANIFEST]
    root = {
        "@id": "./", "@type": "Dataset", "name": f"emergence-audit {version}", "description": WORDS, "version": version,
        "datePublished": date, "license": {"@id": LICENCE}, "hasPart": [{"@id": name} for name in parts],
        "citation": {"@id": "https://arxiv.org/abs/2309.01809"}, "isBasedOn": {"@id": "#code"},
    }  # fmt: skip
    code = {"@id": "#code", "@type": "SoftwareSourceCode", "name": "emergence-audit", "version": commit}
    paper = {
        "@id": "https://arxiv.org/abs/2309.01809", "@type": "ScholarlyArticle",
        "name": "Are Emergent Abilities in Large Language Models just In-Context Learning?",
    }  # fmt: skip
    licences = [{"@id": url, "@type": "CreativeWork", "name": url.rsplit("/")[-1]}
                for url in (LICENCE, *LICENCES.values())]  # fmt: skip
    listed = [_file(name, files.get(name)) for name in parts]
    return {"@context": "https://w3id.org/ro/crate/1.1/context",
            "@graph": [descriptor, root, code, paper, *licences, *listed]}  # fmt: skip


def _file(name: str, content: bytes | None) -> dict[str, Any]:
    kind = {".jsonl": "application/jsonl", ".parquet": "application/vnd.apache.parquet", ".yaml": "application/yaml"}
    encoding = kind.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "text/plain"
    entity: dict[str, Any] = {"@id": name, "@type": "File", "encodingFormat": encoding}
    if content is not None:
        entity["contentSize"] = str(len(content))
    licence = next((url for folder, url in LICENCES.items() if name.startswith(folder)), None)
    return entity | ({"license": {"@id": licence}} if licence else {})


def manifest(files: Mapping[str, bytes]) -> bytes:
    """What `sha256sum --check` reads."""
    return "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items()).encode()


def commit(root: Path) -> tuple[str, str]:
    """(hash, day) of the checked-out commit. Raises UserError without git."""
    try:
        return git.commit(root)
    except UserError as error:
        raise UserError(f"A release says which commit made it. {error}") from error


def write(root: Path, archive: Path | None = None) -> Path:
    """The archive of a finished run under `root`. Raises UserError where there is none."""
    version = version_of(root / "pyproject.toml")
    files = members(root)
    revision, day = commit(root)
    described = json.dumps(crate(files, version, day, revision), indent=1, ensure_ascii=False) + "\n"
    files[CRATE] = described.encode()
    path = archive or root / f"dist/emergence-audit-{version}.zip"
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
    parser.add_argument("archive", nargs="?", type=Path, help="default: dist/emergence-audit-<version>.zip")
    given = parser.parse_args()
    with stage("release"):
        if changed := unfinished(ROOT):
            raise UserError(f"a release names one commit, and these are not in it. Commit them first:\n{changed}")
        path = write(ROOT, given.archive)
        print(f"{path}: sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")
        print(f"check it: python -m src.verify {path} --level tables")


if __name__ == "__main__":
    main()
