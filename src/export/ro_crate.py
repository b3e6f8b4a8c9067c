"""RO-Crate 1.3: what lies in an archive, and the run that made it as an action."""

from __future__ import annotations

import hashlib
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
PIPELINE = "dvc.yaml"
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
HELD = {
    "data/cells/": "A cell: a model's answers to one task under one condition. Hashes stand in the place of prompts.",
    "data/tasks/summary.csv": "The prepared tasks: items, chance and the sha256 of each file.",
    "data/tasks/": "A prepared task with a hash in the place of every text.",
    "data/published/": "Numbers that the paper's authors released, and the tables of the paper.",
    "data/reference/": "Scores of runs that cost too much to make again each time.",
    "data/scores.parquet": "All scores: a row for each example, variant and seed of each cell.",
    "data/fidelity/": "What the switches of the released code change.",
    "reports/hashes/": "Hashes of completions, and log-likelihoods, to compare another run with.",
    "reports/tables/": "A table of the report.",
    "reports/metrics.json": "The main numbers of the report.",
    "exports/every_eval_ever/": "Cells in the format Every Eval Ever.",
    "exports/lm_eval/": "Cells as lm-evaluation-harness logs its samples and results.",
    "croissant.json": "The archive's data, described in Croissant with responsible-AI fields.",
    "conf/": "Configuration: what is run, judged and shown.",
    "requirements": "The packages that the program needs, with versions.",
    "params.yaml": "The grid of the run: models, tasks, conditions, seeds and limit.",
    "dvc": "The stages of the pipeline, and the hashes of what went into and came out of them.",
    "pyproject.toml": "The program's version and settings of its tools.",
    "CITATION.cff": "How to cite the program.",
    "LICENSE": "The licence of the program and of what it made.",
    MANIFEST: "The sha256 of every other file; sha256sum --check reads it.",
}
"""What a file is, by how its path begins; the first that fits."""
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
    listed = [pipeline(files, release) if name == PIPELINE else file(name, files) for name in parts]
    entities = [descriptor(), root(parts, release), code(release), makers(files), paper(), *licences(parts),
                run(parts, release), *listed]  # fmt: skip
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
    """The program, by the commit that ran. The specification asks a SoftwareApplication for a url, which it has not."""
    return {
        "@id": CODE, "@type": "CreativeWork", "name": "emergence-audit", "version": release.commit,
        "description": f"The program that made this archive, version {release.version}, by its commit.",
    }  # fmt: skip


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


def licences(parts: Sequence[str]) -> list[dict[str, Any]]:
    """The licences that the archive or one of its files has."""
    named = {LICENCE, *(url for folder, url in LICENCES.items() if any(name.startswith(folder) for name in parts))}
    return [
        {"@id": url, "@type": "CreativeWork", "name": url.removeprefix(SPDX), "description": words}
        for url, words in LICENCE_WORDS.items()
        if url in named
    ]


def run(parts: Sequence[str], release: Release) -> dict[str, Any]:
    """The run: a program took these files and made those. Its outputs name no time, so its end is the commit's."""
    failed = {"error": "; ".join(release.gaps)} if release.gaps else {}
    return {
        "@id": RUN, "@type": "CreateAction", "name": f"The run of params.yaml, emergence-audit {release.version}",
        "description": "Models answered the prompts, the answers were scored and the tables made. The outputs name no "
        "time, so that the same run gives the same bytes: endTime is that of the commit that holds the tables.",
        "instrument": {"@id": PIPELINE}, "agent": {"@id": MAKERS}, "endTime": release.when.isoformat(),
        "object": refs([name for name in parts if name.startswith(ASKED)]),
        "result": refs([name for name in parts if name.startswith(MADE)]),
        "actionStatus": STATUS[not release.gaps], **failed,
    }  # fmt: skip


def refs(names: Sequence[str]) -> list[dict[str, str]]:
    """References to entities."""
    return [{"@id": name} for name in names]


def file(name: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    """One file of the archive."""
    encoding = KINDS.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "text/plain"
    size = len(files[name]) if name in files else manifest_size(files)
    entity = {"@id": name, "@type": "File", "name": Path(name).name, "encodingFormat": encoding,
              "description": held(name), "contentSize": str(size)}  # fmt: skip
    licence = next((url for folder, url in LICENCES.items() if name.startswith(folder)), None)
    return entity | ({"license": {"@id": licence}} if licence else {})


def pipeline(files: Mapping[str, bytes], release: Release) -> dict[str, Any]:
    """The file that `dvc repro` ran: the instrument of the run."""
    return {**file(PIPELINE, files), "@type": ["File", "SoftwareSourceCode"], "version": release.commit}


def held(name: str) -> str:
    """What a file is."""
    return next((words for start, words in HELD.items() if name.startswith(start)), "A file of the archive.")


def manifest(files: Mapping[str, bytes]) -> bytes:
    """What `sha256sum --check` reads."""
    return b"".join(line(hashlib.sha256(content).hexdigest(), name) for name, content in files.items())


def manifest_size(files: Mapping[str, bytes]) -> int:
    """The bytes of the manifest, which holds the hash of this metadata, too: they do not depend on any hash."""
    return sum(len(line("0" * 64, name)) for name in (*files, CRATE))


def line(sha256: str, name: str) -> bytes:
    """One line of the manifest."""
    return f"{sha256}  {name}\n".encode()
