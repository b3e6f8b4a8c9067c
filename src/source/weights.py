"""The weights of a model: where they lie, which checkpoint they are, and how a GGUF file becomes plain fp32."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import struct
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from src.base.errors import UserError, disk_errors
from src.base.network import check_proxies
from src.base.schema import Encoder, Model
from src.source import gguf_file
from src.source.archives import publish, scratch
from src.source.hub import REVISIONS, snapshot
from src.source.pins import UnavailableError, load_source, sha256
from src.source.whole import listed, refuse_no_numbers, refuse_part

GGUF = Path("data/gguf")  # GGUF files of the user's own, dequantised
CHECKED = "gguf.json"  # in such a folder: what it was made from. A folder without it is made anew
UNREADABLE_GGUF = (ValueError, LookupError, OSError, RuntimeError, TypeError, AttributeError, struct.error)
"""What the gguf package and transformers raise for a damaged file, or a quantisation that they do not support."""
ANOTHER_GGUF = "Get it again, or one of another kind, or save the checkpoint as a folder of *.safetensors"

WEIGHTS = ("*.safetensors", "*.bin")  # *.bin is read only where there is no *.safetensors
BESIDE_WEIGHTS = (
    "config.json", "generation_config.json", "tokenizer*", "*.model", "vocab*", "merges.txt", "special*",
    "added_tokens*", "*.index.json", "*.spm", "*.py",
)  # fmt: skip


Weights = Model | Encoder  # both have the fields hub, revision, source, path and gate


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' own report on a checkpoint's tensors. whole.refuse_part says it in a line."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def dequantise(file: Path, into: Path) -> None:
    """Writes a GGUF file's weights in fp32, and its tokenizer, as `save_pretrained` does.

    Raises UserError for one part of a split file, and where anything the file says of the model would be lost.
    """
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # read by tqdm when it is imported
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    found = gguf_file.header(file)
    gguf_file.refuse_split(found)
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    gguf_file.amend(config, found)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    options = {"dtype": torch.float32, "ignore_mismatched_sizes": True, "output_loading_info": True}
    with quiet():
        model, loading = kind.from_pretrained(file.parent, config=config, gguf_file=file.name, **options)
    refuse_part(model, loading, file, {}, ANOTHER_GGUF)
    refuse_no_numbers(model.named_parameters(), file, ANOTHER_GGUF)
    lost = gguf_file.lost(model.config, found, *_unread(model, found))
    if lost:
        raise UserError(f"{file} says what transformers does not read ({listed(lost)}). {ANOTHER_GGUF}")
    model.hf_quantizer = None  # save_pretrained refuses packed weights; these are plain fp32 by now
    del model.config.quantization_config
    model.save_pretrained(into)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(into)
    for path in into.iterdir():
        path.chmod(0o644)  # safetensors makes them readable by their owner alone


def _unread(model: Any, found: gguf_file.Header) -> tuple[set[str], set[str]]:
    """(keys that transformers reads, tensors that it does not read) of a GGUF file."""
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING
    from transformers.integrations.gguf import utils
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    if utils.is_gguf_arch_supported(found.architecture):  # it reads every key by name, and reports every tensor
        return set(found.model), set()
    name = next((n for n in (found.architecture, model.config.model_type) if n in GGUF_CONFIG_MAPPING), "")
    processor = TENSOR_PROCESSORS.get(found.architecture, TensorProcessor)
    places = get_gguf_hf_weights_map(model, processor(config=model.config.to_dict()))
    read = {key for key, field in GGUF_CONFIG_MAPPING.get(name, {}).items() if field}
    return read, {each for each in found.tensors if each not in places and "_exps." not in each}


def steady(tokenizer: Any) -> Any:
    """The tokenizer (tokenizers.Tokenizer) without what makes its ids incomplete, padded or random. It is changed."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None):  # of BPE; no other model saves such a thing
        tokenizer.model.dropout = None
    return tokenizer


def located(model: Weights, root: Path = Path()) -> tuple[Path, str]:
    """(folder, identity) of a model's weights: in its local `path`, else its fetched `source`, else from the hub.

    The identity is the sha256 over file names and contents, or `<hub>@<commit>`. It distinguishes checkpoints wherever
    they lie. Raises UserError that says what would help.
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
    """Where a model's weights are on this disk, or None. It does not ask the hub, and checks no hash."""
    if model.path:
        folder = root / Path(model.path).expanduser()
        return folder if folder.exists() else None
    if model.source:
        try:
            return source_folder(model, root)
        except UserError:
            return None
    if not model.hub:
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model.hub, "config.json", revision=pinned(model, root))
    return Path(cached).parent if isinstance(cached, str) else None


def tokenizer(model: Model, root: Path = Path()) -> Any:
    """The model's own tokenizer (tokenizers.Tokenizer) where its tokenizer.json is on this disk, else None."""
    folder = on_disk(model, root)
    return _tokenizer(folder / "tokenizer.json") if folder and (folder / "tokenizer.json").is_file() else None


@functools.cache
def _tokenizer(file: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        return steady(Tokenizer.from_file(str(file)))
    except Exception as error:  # the package raises nothing more special
        raise UserError(f"{file} cannot be read: {error}. Put the model's own there, or fetch it again") from None


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
    if not weight_files(folder):
        raise UserError(f"{model.name}: {model.path} holds no {' or '.join(WEIGHTS)}. Convert the checkpoint first.")
    beside = [p.name for pattern in BESIDE_WEIGHTS for p in folder.glob(pattern)]
    return folder, identity(folder, [*weight_files(folder), *beside])


def _dequantised(file: Path, cache: Path) -> tuple[Path, str]:
    """(folder, identity) of a GGUF file, which is dequantised the first time."""
    content = sha256(file)
    into = cache / content[:16]
    if not (into / CHECKED).is_file():
        with scratch(into) as folder:
            try:
                with disk_errors(file.name):
                    dequantise(file, folder / "files")
                    (folder / "files" / CHECKED).write_text(
                        json.dumps({"file": file.name, "sha256": content}) + "\n", encoding="utf-8"
                    )
            except UNREADABLE_GGUF as error:
                raise UserError(
                    f"{file} cannot be read as GGUF: {' '.join(str(error).split())}. {ANOTHER_GGUF}"
                ) from None
            publish(folder / "files", into)
    return into, f"gguf:{content}"


def _fetched(model: Weights, root: Path) -> tuple[Path, str]:
    source = load_source(str(model.source), root)
    return source_folder(model, root), identity(root / source.folder, source.converted or source.files)


def source_folder(model: Weights, root: Path = Path()) -> Path:
    """The folder with the weights of a fetched source. Raises UserError where one of its files is missing."""
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
        if not weight_files(folder):
            folder = snapshot(str(model.hub), revision, (WEIGHTS[1], *BESIDE_WEIGHTS))
    except UnavailableError as error:
        raise UnavailableError(f"{model.name}: {error}{_hub_help(model)}") from None
    if not weight_files(folder):
        raise UnavailableError(f"{model.name}: {model.hub} holds no weights in the local cache.{_hub_help(model)}")
    if revision is None:
        record(str(model.hub), folder.name, root)
    return folder, f"{model.hub}@{folder.name}"


def pinned(model: Weights, root: Path = Path()) -> str | None:
    """The commit at which a model is taken, or None before its first download.

    Raises UserError where conf/revisions.yaml and the model's configuration name different ones.
    """
    known = recorded(root).get(str(model.hub))
    if known and model.revision and model.revision != known:
        raise UserError(
            f"{model.name}: {REVISIONS} records {model.hub} at {known}, its configuration or model.revision says "
            f"{model.revision}. The two are never mixed: change or remove the line in {REVISIONS}."
        )
    return model.revision or known


def recorded(root: Path = Path()) -> dict[str, str]:
    """Hub id -> commit, from conf/revisions.yaml. {} where there is no such file."""
    import yaml

    path = root / REVISIONS
    commits = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}
    return {str(hub): str(commit) for hub, commit in commits.items()}


def record(hub: str, commit: str, root: Path = Path()) -> None:
    """Appends the commit of a hub repository's first download to conf/revisions.yaml, which git keeps.

    Warns where the file cannot be written.
    """
    try:
        with (root / REVISIONS).open("a", encoding="utf-8") as file:
            file.write(f"{hub}: '{commit}'\n")
    except OSError as error:
        warnings.warn(f"{REVISIONS} cannot be written ({error.strerror}). Add by hand: {hub}: '{commit}'", stacklevel=3)


def _hub_help(model: Weights) -> str:
    gate = f" About these weights: {model.gate.rstrip(chr(46))}." if model.gate else ""
    return (
        f"{gate} What helps: a network that reaches the hub or a mirror (HF_ENDPOINT), a token of an account that may "
        f"read it (HF_TOKEN), HF_HOME of a cache that has it, or the weights in a folder: model.path=/that/folder"
    )


def weight_files(folder: Path) -> list[str]:
    """The names of the weight files: *.safetensors, or *.bin where there are none."""
    return next(filter(None, ([p.name for p in folder.glob(pattern)] for pattern in WEIGHTS)), [])


def size(folder: Path) -> int | None:
    """The bytes of a folder's weights. None where there are none, or not all that its index names."""
    names = set(weight_files(folder))
    for suffix in {Path(name).suffix for name in names}:
        for index in folder.glob(f"*{suffix}.index.json"):
            with suppress(ValueError, LookupError, AttributeError):  # loading it says what is wrong
                names |= set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    files = [folder / name for name in names]
    return sum(file.stat().st_size for file in files) if files and all(file.is_file() for file in files) else None


def to_download(hub: str, revision: str | None) -> int:
    """How many bytes of a hub repository the cache lacks. Raises what the hub's client raises."""
    from huggingface_hub import HfApi, snapshot_download

    check_proxies()
    HfApi().repo_info(hub, revision=revision, timeout=5)  # fails within seconds, where snapshot_download would retry
    for pattern in WEIGHTS:
        files = snapshot_download(hub, revision=revision, allow_patterns=[pattern, *BESIDE_WEIGHTS], dry_run=True)
        if any(Path(file.filename).match(pattern) for file in files):
            break
    return sum(file.file_size for file in files if file.will_download)
