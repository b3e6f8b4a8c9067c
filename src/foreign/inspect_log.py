"""Logs of inspect: a zip with header.json and a JSON file for each sample and epoch (*.eval, version 2)."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from src.base.errors import UserError
from src.base.values import digest
from src.foreign.files import as_documented, number
from src.foreign.record import Fields, Record

KNOWN = "the .eval logs of inspect, version 2"
VERSION, DONE = 2, "success"
ZSTANDARD, LOCAL = 93, 30
"""The number of Zstandard in a zip, and the bytes of a file's local header before its name."""
HEADER, SAMPLES = "header.json", "samples/"
GRADES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
"""Correct, partial, incorrect, no answer: what inspect counts them as."""
ATTACHED = "attachment://"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def find(folder: Path) -> list[Path]:
    """The logs in a folder and in those below it."""
    return sorted(folder.rglob("*.eval"))


def is_one(path: Path) -> bool:
    """Whether a file is named as inspect names logs."""
    return path.suffix == ".eval"


def read(path: Path, fields: Fields) -> Iterator[Record]:
    """Every record of a log: one a sample, epoch and scorer. Raises UserError for a log that is not whole."""
    header, samples = _members(path)
    with as_documented(path, KNOWN):
        if header["version"] != VERSION:
            raise UserError(f"{path} is a log of version {header['version']}. This reader knows {KNOWN}")
        if header["status"] != DONE:
            raise UserError(f"{path}: its run ended as '{header['status']}', so it is not whole. Run it to its end")
        _check_whole(path, header, samples)
        steps = (header.get("plan") or {}).get("steps") or []
        shared = {
            "model": fields.model or str(header["eval"]["model"]),
            "task": str(header["eval"]["task"]).rpartition("/")[2],
            "prompt": " + ".join(str(step["solver"]) for step in steps if step["solver"] != "generate"),
        }
        for sample in samples:
            yield from _records(path, sample, shared, fields)


def _members(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(header, samples) of a log."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if HEADER not in names:
                raise UserError(f"{path} has no {HEADER}: its run did not end. Run it to its end")
            header = json.loads(_member(archive, path, HEADER))
            samples = [json.loads(_member(archive, path, n)) for n in sorted(names) if n.startswith(SAMPLES)]
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError) as error:
        raise UserError(f"{path} is no whole log: {error}. Copy it again") from None
    except NotImplementedError:
        raise UserError(f"{path} is compressed in a way that this reader does not know. It knows {KNOWN}") from None
    return header, samples


def _member(archive: zipfile.ZipFile, path: Path, name: str) -> bytes:
    """A file of the log. Its own samples are compressed by Zstandard, which zipfile knows from Python 3.14 on."""
    info = archive.getinfo(name)
    if info.compress_type != ZSTANDARD:
        return archive.read(name)
    import pyarrow

    with path.open("rb") as file:
        file.seek(info.header_offset)
        local = file.read(LOCAL)
        name_length, extra_length = struct.unpack("<HH", local[26:LOCAL])
        file.seek(name_length + extra_length, 1)
        packed = file.read(info.compress_size)
    content = pyarrow.CompressedInputStream(pyarrow.BufferReader(packed), "zstd").read() if packed else b""
    if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
        raise zipfile.BadZipFile(f"{name} is not what the zip says it is")
    return bytes(content)


def _check_whole(path: Path, header: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> None:
    """Raises UserError where samples are missing or ended in an error."""
    asked = (header.get("results") or {}).get("total_samples")
    if asked is not None and len(samples) != asked:
        raise UserError(f"{path} holds {len(samples)} samples, and its run had {asked}. Copy it again")
    if failed := [sample["id"] for sample in samples if sample.get("error")]:
        raise UserError(f"{path}: sample {failed[0]} ended in an error ({len(failed)} in all), so it has no score. "
                        f"Run these again: inspect eval-retry")  # fmt: skip


def _records(path: Path, sample: Mapping[str, Any], shared: Mapping[str, Any], fields: Fields) -> Iterator[Record]:
    options, metadata = tuple(map(str, sample.get("choices") or ())), sample.get("metadata") or {}
    target = _place(sample["target"], options)
    text = str(metadata[fields.text]) if fields.text else _question(sample["input"], sample.get("attachments") or {})
    content = digest([sample["input"], list(options), sample["target"]])
    for name, value, answer in _scores(sample.get("scores") or {}):
        score = GRADES.get(value) if isinstance(value, str) else number(value)
        if score is None:
            raise UserError(f"{path}: sample {sample['id']} has the grade {value!r} by {name}, which is no number and "
                            f"none of {', '.join(GRADES)}")  # fmt: skip
        pick = _place(answer, options)
        known = bool(options) and target is not None and float(pick == target) == score
        yield Record(
            **shared, item=str(sample["id"]), metric=name, score=score, text=text, content=content, options=options,
            target=target, pick=pick if known else None, picked_known=known, repeat=str(sample["epoch"]),
            group=str(metadata[fields.group]) if fields.group else "",
        )  # fmt: skip


def _scores(scores: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(metric, value, answer) of each scorer. A scorer with several values gives each a metric of its own."""
    for scorer, given in scores.items():
        value = given["value"]
        for name, each in value.items() if isinstance(value, dict) else [("", value)]:
            yield f"{scorer}/{name}" if name else scorer, each, given.get("answer")


def _place(letters: Any, options: Sequence[str]) -> int | None:
    """The index of an option that is named by its letter. None for no letter, and for several."""
    if isinstance(letters, list):
        letters = letters[0] if len(letters) == 1 else None
    word = str(letters or "").strip()
    at = LETTERS.find(word) if len(word) == 1 else -1
    return at if 0 <= at < len(options) else None


def _question(asked: Any, attachments: Mapping[str, str]) -> str:
    """The question of a sample: its text, or that of the last message of the user. A long text is an attachment."""
    if isinstance(asked, str):
        return str(attachments[asked.removeprefix(ATTACHED)]) if asked.startswith(ATTACHED) else asked
    content = next((each["content"] for each in reversed(asked) if each.get("role") == "user"), "")
    if isinstance(content, str):
        return _question(content, attachments)
    return "".join(str(part["text"]) for part in content if part.get("type") == "text")
