"""Croissant 1.1 (MLCommons): what an archive holds, the columns of its scores, minimal responsible-AI fields."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from src.base.errors import UserError
from src.base.files import ROOT
from src.base.frames import load_schemas, read_yaml
from src.export.parts import SCORES, Exported
from src.export.settings import OWN
from src.source.pins import Source

NAME = "croissant.json"
WORDS = ROOT / "conf/release/croissant.yaml"
CONFORMS = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
MINIMAL = (
    "dataLimitations", "dataBiases", "personalSensitiveInformation", "dataUseCases", "dataSocialImpact",
    "hasSyntheticData",
)  # fmt: skip
"""The RAI fields that NeurIPS 2026 asks for, beside prov:wasDerivedFrom and prov:wasGeneratedBy."""
DESCRIBED = ("data/", "reports/", "exports/")
"""The folders whose files are data."""
ENCODINGS = {".parquet": "application/x-parquet", ".csv": "text/csv", ".jsonl": "application/jsonlines",
             ".json": "application/json"}  # fmt: skip
TYPES = {"str": "sc:Text", "int": "sc:Integer", "float": "sc:Float", "bool": "sc:Boolean"}
CONTEXT: dict[str, Any] = {
    "@language": "en", "@vocab": "https://schema.org/", "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/", "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/", "prov": "http://www.w3.org/ns/prov#", "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"}, "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"}, "name": {"@container": "@language"},
    "description": {"@container": "@language"},
    **{term: f"cr:{term}" for term in (
        "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileObject",
        "fileProperty", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5",
        "parentField", "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate", "separator",
        "source", "subField", "transform",
    )},
}  # fmt: skip
"""The terms of Croissant 1.1 and of its RAI vocabulary."""


def write(exported: Exported, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The description of these files. Raises UserError where conf/release says too little."""
    whole = json.dumps(described(exported, files), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return {NAME: whole.encode()}


def described(exported: Exported, files: Mapping[str, bytes]) -> dict[str, Any]:
    """The JSON-LD document."""
    words, cited = said(), yaml.safe_load(files["CITATION.cff"])
    sources = {part.source.name: part.source for part in exported.parts}
    data = {name: content for name, content in files.items() if name.startswith(DESCRIBED)}
    return {
        "@context": CONTEXT, "@type": "sc:Dataset", "conformsTo": CONFORMS, "name": OWN,
        "description": " ".join(str(cited["abstract"]).split()), "version": exported.version,
        "datePublished": exported.when.isoformat(), "license": "https://spdx.org/licenses/Apache-2.0",
        "creator": [{"@type": "sc:Organization", "name": each["name"]} for each in cited["authors"]],
        "citeAs": f"{cited['authors'][0]['name']}: {cited['title']} {exported.version}. Commit {exported.commit}",
        "url": cited["references"][0]["url"], "keywords": words["keywords"],
        **{f"rai:{field}": words["rai"][field] for field in MINIMAL},
        "prov:wasDerivedFrom": [address(source) for _, source in sorted(sources.items())],
        "prov:wasGeneratedBy": f"{OWN} {exported.version}, commit {exported.commit}: {runs(exported)}",
        "distribution": [file_object(name, content) for name, content in data.items()],
        "recordSet": [record_set()],
    }  # fmt: skip


def said() -> dict[str, Any]:
    """What conf/release/croissant.yaml says. Raises UserError where a field is missing."""
    words: dict[str, Any] = read_yaml(WORDS)
    if missing := [field for field in MINIMAL if (words.get("rai") or {}).get(field) in (None, "", [])]:
        raise UserError(f"{WORDS.relative_to(ROOT)} does not say rai: {missing[0]}. Croissant needs it: add it there")
    return words


def address(source: Source) -> str:
    """Where a source of tasks can be had."""
    if source.hub:
        return f"https://huggingface.co/datasets/{source.hub}/tree/{source.revision}"
    name, _, version = source.archives[0].package.partition("==")
    return f"https://pypi.org/project/{name}/{version}/"


def runs(exported: Exported) -> str:
    """Which models answered, in words."""
    told = [f"{model} ({suite}, {len(parts)} cells)" for (suite, model), parts in exported.runs.items()]
    return "prompts answered by " + ", ".join(told)


def file_object(name: str, content: bytes) -> dict[str, Any]:
    """One file of the archive, by its path from this document."""
    encoding = ENCODINGS.get(Path(name).suffix, "text/plain")
    return {"@type": "cr:FileObject", "@id": name, "name": name, "contentUrl": name, "encodingFormat": encoding,
            "contentSize": f"{len(content)} B", "sha256": hashlib.sha256(content).hexdigest()}  # fmt: skip


def record_set() -> dict[str, Any]:
    """The columns of scores.parquet, as conf/frame declares them."""
    schema = load_schemas(ROOT)["scores"]
    fields = [
        {
            "@type": "cr:Field", "@id": f"scores/{each.name}", "name": each.name,
            "description": each.meaning + (f" Unit: {each.unit}." if each.unit else ""),
            "dataType": TYPES[each.dtype], "source": {"fileObject": {"@id": SCORES}, "extract": {"column": each.name}},
        }
        for each in schema.columns
    ]  # fmt: skip
    return {"@type": "cr:RecordSet", "@id": "scores", "name": "scores", "description": schema.row, "field": fields}
