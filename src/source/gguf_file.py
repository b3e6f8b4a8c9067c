"""What a GGUF file says of its model, and what of it would be lost on the way to a folder of *.safetensors."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.base.errors import UserError
from src.source.whole import listed

GEMMAS = {"gemma2": 46, "gemma3": 62}  # the layers of the 27B, whose attention is scaled by width and not by head


@dataclass(frozen=True)
class Header:
    """A GGUF file without its weights. metadata: values by key, without the tokenizer's. tensors: names."""

    file: Path
    metadata: Mapping[str, Any]
    tensors: tuple[str, ...]
    factors: bool  # whether it holds rotary factors (rope_freqs and the like) other than one

    @property
    def architecture(self) -> str:
        """The architecture's name at llama.cpp."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def model(self) -> dict[str, Any]:
        """What it says of the architecture, by the key without the architecture's name."""
        begin = f"{self.architecture}."
        return {key.removeprefix(begin): value for key, value in self.metadata.items() if key.startswith(begin)}


def header(file: Path) -> Header:
    """Reads a file's header. Raises what the gguf package raises for a damaged one, and a file that is cut short."""
    from gguf import GGUFReader

    reader = GGUFReader(file)
    metadata = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("tokenizer.")}
    factors = any("rope_f" in each.name and bool((each.data != 1).any()) for each in reader.tensors)
    return Header(file, metadata, tuple(each.name for each in reader.tensors), factors)


def refuse_split(found: Header) -> None:
    """Raises UserError for one part of a split file. It names the other parts."""
    count, number = int(found.metadata.get("split.count", 0)), int(found.metadata.get("split.no", 0)) + 1
    if count <= 1:
        return
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", found.file.stem)
    parts = [f"{stem}-{part:05}-of-{count:05}.gguf" for part in range(1, count + 1)]
    others = [name for part, name in enumerate(parts, 1) if part != number]
    raise UserError(
        f"{found.file} is part {number} of {count} of a split GGUF file. The others: {listed(others)}. Join them "
        f"(llama-gguf-split --merge {parts[0]} {stem}.gguf) and point model.path to the whole file"
    )


def amend(config: Any, found: Header) -> None:
    """Writes into a configuration what transformers does not read: a linear rotary scale, and how Gemma scales."""
    said = found.model
    if said.get("rope.scaling.type") == "linear":
        scale = {"rope_type": "linear", "factor": float(said["rope.scaling.factor"])}
        ropes = config.rope_parameters
        ropes.get("full_attention", ropes).update(scale)
    if found.architecture in GEMMAS:
        large = config.num_hidden_layers == GEMMAS[found.architecture]
        config.query_pre_attn_scalar = config.hidden_size // config.num_attention_heads if large else config.head_dim


def lost(config: Any, found: Header, read: Collection[str], unread: Collection[str]) -> list[str]:
    """What the file says and the model would not have, as `key=value` or a tensor's name. [] where nothing is lost.

    read: keys that transformers puts into the configuration. unread: tensors that it puts nowhere.
    """
    known = {key: value for key, value in found.model.items() if not isinstance(value, str) or "scaling" in key}
    said = [f"{key}={value}" for key, value in known.items() if not _kept(key, value, config, key in read)]
    said += [name for name in unread if found.factors or "rope_f" not in name]
    if getattr(config, "sliding_window", None) and "attention.sliding_window" not in known:
        said.append(f"no sliding window, where the configuration has {config.sliding_window}")
    return said


SHAPES = (  # a tensor has another shape where one of these is wrong, and is then refused for it
    "context_length", "block_count", "embedding_length", "feed_forward_length", "vocab_size", "attention.head_count",
    "expert_feed_forward_length", "expert_shared_feed_forward_length",
)  # fmt: skip
EQUALS = {  # a key, and the names that a configuration may have for it
    "attention.key_length": ("head_dim", "d_kv"),
    "attention.value_length": ("v_head_dim", "head_dim", "d_kv"),
    "attention.head_count_kv": ("num_key_value_heads", "num_kv_heads", "num_attention_heads"),
    "attention.sliding_window": ("sliding_window",),
    "attention.layer_norm_epsilon": ("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", "norm_eps"),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps", "layer_norm_epsilon"),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "decoder_block_count": ("num_decoder_layers",),
    "use_parallel_residual": ("use_parallel_residual", "parallel_attn"),
}


def _kept(key: str, value: Any, config: Any, read: bool) -> bool:
    """Whether the model is what a key says, or the key says nothing that a text depends on."""
    if key in SHAPES or (key == "attention.causal" and value is True):
        return True
    if key in EQUALS:
        fields = [getattr(config, name, None) for name in EQUALS[key] if hasattr(config, name)]
        return any(_equal(value, field) or not (value or field) for field in fields)
    if not isinstance(value, bool) and value in (0, "none"):
        return True
    if key == "rope.freq_base":
        return any(_equal(value, rope.get("rope_theta")) for rope in _ropes(config))
    if key == "rope.freq_base_swa":
        return any(_equal(value, rope.get("rope_theta")) for rope in _ropes(config, "sliding_attention"))
    if key.startswith("rope.scaling."):
        linear = any(rope.get("rope_type") == "linear" for rope in _ropes(config))
        inert = ("rope.scaling.finetuned", "rope.scaling.original_context_length")  # of a scale that is not there
        return key in (*inert, *(("rope.scaling.type", "rope.scaling.factor") if linear else ()))
    if key == "rope.dimension_count":
        return _equal(value, _rotary(config)) or (read and _equal(value, getattr(config, "head_dim", None)))
    if key == "attention.sliding_window_pattern":
        return _pattern(value, config)
    return read


def _ropes(config: Any, kind: str = "full_attention") -> Iterator[Mapping[str, Any]]:
    ropes = getattr(config, "rope_parameters", None) or {}
    yield ropes.get(kind, ropes)


def _rotary(config: Any) -> float | None:
    """Dimensions of a head that are rotated."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    share = next(_ropes(config)).get("partial_rotary_factor") or getattr(config, "partial_rotary_factor", None) or 1
    return float(head * share)


def _pattern(value: Any, config: Any) -> bool:
    """Whether the layers that slide are those that the file names, one by one or as every n-th that does not."""
    layers = [kind == "sliding_attention" for kind in getattr(config, "layer_types", None) or ()]
    if isinstance(value, list):
        return [bool(each) for each in value] == layers
    return [(i + 1) % int(value) != 0 for i in range(len(layers))] == layers


def _equal(value: Any, other: Any) -> bool:
    return (
        isinstance(other, int | float) and isinstance(value, int | float) and math.isclose(value, other, rel_tol=1e-6)
    )
