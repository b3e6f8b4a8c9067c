"""RO-Crate 1.3: what lies in an archive, and the run that made it as an action."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

VERSION = "https://w3id.org/ro/crate/1.3"
CRATE, MANIFEST = "ro-crate-metadata.json", "manifest-sha256.txt"
SPDX = "https://spdx.org/licenses/"
LICENCE = f"{SPDX}Apache-2.0"
LICENCES = {"data/published/": f"{SPDX}CC-BY-SA-4.0"}
LICENCE_WORDS = {
    LICENCE: "Apache License 2.0: use, change and pass on, with the notice.",
    LICENCES["data/published/"]: "Creative Commons Attribution-ShareAlike 4.0: pass on with credit, on the same terms.",
}
PAPER = "https://arxiv.org/abs/2309.01809"
CODE, RUN, MAKERS = "#code", "#run", "#makers"
WORDS = (
    "Completions, scores and tables, without dataset text. Prompts and items stand as hashes; they are rebuilt from "
    "the data sets, which have their own licences. Completions are the model's own words, kept as written: one can "
    "quote its prompt, and with it an option or a phrase of an item."
)
EXPORTED = " Folder exports: the same answers in formats of other programs; each record says whose text is in it."
ASKED = ("conf/", "params.yaml", "dvc.yaml", "requirements", "data/tasks/", "data/published/")
"""What a run reads, by how its paths begin."""
MADE = ("data/cells/", "data/scores.parquet", "data/fidelity/", "reports/")
"""What a run writes."""
STATUS = {True: "http://schema.org/CompletedActionStatus", False: "http://schema.org/FailedActionStatus"}
KINDS = {".jsonl": "application/jsonl", ".parquet": "application/vnd.apache.parquet", ".yaml": "application/yaml"}


@dataclass(frozen=True)
class Release:
    """Which code made an archive, and when."""

    version: str
    commit: str
    when: datetime  # of the commit, or SOURCE_DATE_EPOCH
    gaps: tuple[str, ...] = ()  # cells of the run that are not done, a sentence each


def crate(files: Mapping[str, bytes], release: Release) -> dict[str, Any]:
    """The metadata of these files, as JSON-LD."""
    parts = [*files, MANIFEST]
    context = {"@context": f"{VERSION}/context"}
    entities = [descriptor(), root(parts, release), code(release), makers(files), paper(), *licences(),
                run(parts, release), *(file(name, files.get(name)) for name in parts)]  # fmt: skip
    return {**context, "@graph": entities}


def descriptor() -> dict[str, Any]:
    """The entity of the metadata itself."""
    return {"@id": CRATE, "@type": "CreativeWork", "about": {"@id": "./"}, "conformsTo": {"@id": VERSION}}


def root(parts: Sequence[str], release: Release) -> dict[str, Any]:
    """The archive."""
    words = WORDS + (EXPORTED if any(name.startswith("exports/") for name in parts) else "")
    return {
        "@id": "./", "@type": "Dataset", "name": f"emergence-audit {release.version}", "description": words,
        "version": release.version, "datePublished": release.when.isoformat(), "license": {"@id": LICENCE},
        "publisher": {"@id": MAKERS}, "hasPart": refs(parts), "citation": {"@id": PAPER}, "isBasedOn": {"@id": CODE},
        "mentions": {"@id": RUN},
    }  # fmt: skip


def code(release: Release) -> dict[str, Any]:
    """The program, by the commit that ran."""
    return {"@id": CODE, "@type": "SoftwareSourceCode", "name": "emergence-audit", "version": release.commit}


def makers(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Who made it, as CITATION.cff names them."""
    names = [each["name"] for each in yaml.safe_load(files["CITATION.cff"])["authors"]]
    return {"@id": MAKERS, "@type": "Organization", "name": ", ".join(names)}


def paper() -> dict[str, Any]:
    """The paper that is replicated."""
    return {
        "@id": PAPER, "@type": "ScholarlyArticle",
        "name": "Are Emergent Abilities in Large Language Models just In-Context Learning?",
    }  # fmt: skip


def licences() -> list[dict[str, Any]]:
    """The licences of the archive's files."""
    return [
        {"@id": url, "@type": "CreativeWork", "name": url.removeprefix(SPDX), "description": words}
        for url, words in LICENCE_WORDS.items()
    ]


def run(parts: Sequence[str], release: Release) -> dict[str, Any]:
    """The run: a program took these files and made those. Its outputs name no time, so its end is the commit's."""
    failed = {"error": "; ".join(release.gaps)} if release.gaps else {}
    return {
        "@id": RUN, "@type": "CreateAction", "name": f"The run of params.yaml, emergence-audit {release.version}",
        "description": "Models answered the prompts, the answers were scored and the tables made. The outputs name no "
        "time, so that the same run gives the same bytes: endTime is that of the commit that holds the tables.",
        "instrument": {"@id": CODE}, "agent": {"@id": MAKERS}, "endTime": release.when.isoformat(),
        "object": refs([name for name in parts if name.startswith(ASKED)]),
        "result": refs([name for name in parts if name.startswith(MADE)]),
        "actionStatus": STATUS[not release.gaps], **failed,
    }  # fmt: skip


def refs(names: Sequence[str]) -> list[dict[str, str]]:
    """References to entities."""
    return [{"@id": name} for name in names]


def file(name: str, content: bytes | None) -> dict[str, Any]:
    """One file. content: None for the manifest, which holds the hash of this metadata."""
    encoding = KINDS.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "text/plain"
    entity: dict[str, Any] = {"@id": name, "@type": "File", "encodingFormat": encoding}
    if content is not None:
        entity["contentSize"] = str(len(content))
    licence = next((url for folder, url in LICENCES.items() if name.startswith(folder)), None)
    return entity | ({"license": {"@id": licence}} if licence else {})
