"""Tiny GGUF files, written as llama.cpp's converter writes them, with any change in their metadata or tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.tiny import _tokenizer

Tensors = dict[str, np.ndarray]


def configuration(arch: str, vocabulary: int) -> Any:
    """The configuration whose tensors a GGUF file of this architecture holds. arch: llama | gemma3."""
    from transformers import Gemma3TextConfig, LlamaConfig

    sizes = {"vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "head_dim": 8, "bos_token_id": 0, "eos_token_id": 0}
    if arch == "llama":
        return LlamaConfig(**sizes, num_hidden_layers=2, max_position_embeddings=256)
    return Gemma3TextConfig(
        **sizes, num_hidden_layers=6, max_position_embeddings=256, sliding_window=16, query_pre_attn_scalar=8
    )


def weights_of(arch: str, seed: int = 0) -> Any:
    """A random model of this architecture."""
    import torch
    from transformers import AutoModelForCausalLM

    config = configuration(arch, len(_tokenizer()))
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(), torch.no_grad():
        model = AutoModelForCausalLM.from_config(config).eval()
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.25, generator=generator)
    return model


def gguf_file(
    path: Path,
    arch: str = "llama",
    metadata: Mapping[str, Any] | None = None,
    tensors: Callable[[Tensors], Tensors] = lambda held: held,
    without: tuple[str, ...] = (),
) -> Path:
    """Writes a GGUF file. metadata: keys beside the usual ones, or other values of them; without: keys left out."""
    import json

    from gguf import MODEL_ARCH, GGUFWriter, get_tensor_name_map

    model, tokenizer = weights_of(arch), _tokenizer()
    config = model.config
    names = get_tensor_name_map(MODEL_ARCH[arch.upper()], config.num_hidden_layers)
    held: Tensors = {}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stem, suffix = name.rsplit(".", 1)
        held[f"{names.get_name(stem)}.{suffix}"] = _as_llama_cpp(arch, name, weight.float().numpy(), config)
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].get)
    keys: dict[str, Any] = {
        f"{arch}.context_length": config.max_position_embeddings,
        f"{arch}.embedding_length": config.hidden_size,
        f"{arch}.block_count": config.num_hidden_layers,
        f"{arch}.feed_forward_length": config.intermediate_size,
        f"{arch}.attention.head_count": config.num_attention_heads,
        f"{arch}.attention.head_count_kv": config.num_key_value_heads,
        f"{arch}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{arch}.attention.key_length": config.head_dim,
        f"{arch}.attention.value_length": config.head_dim,
        f"{arch}.vocab_size": config.vocab_size,
    }
    if arch == "llama":
        keys |= {"llama.rope.dimension_count": config.head_dim, "llama.rope.freq_base": 10000.0}
    else:
        keys |= {"gemma3.attention.sliding_window": config.sliding_window, "gemma3.rope.freq_base": 1000000.0}
    keys |= {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token == tokenizer.eos_token else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in bpe["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
        "general.name": "tiny",
    }
    writer = GGUFWriter(path, arch)
    for key, value in (keys | dict(metadata or {})).items():
        if key not in without:
            _add(writer, key, value)
    for name, array in tensors(held).items():
        writer.add_tensor(name, np.ascontiguousarray(array, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        (writer.add_uint16 if key.startswith("split.") else writer.add_uint32)(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    else:
        writer.add_string(key, value)


def _as_llama_cpp(arch: str, name: str, weight: np.ndarray, config: Any) -> np.ndarray:
    """A tensor in the layout that the converter writes: rotary pairs beside each other, Gemma's norms plus one."""
    if arch == "gemma3" and name.endswith("norm.weight"):
        return weight + 1
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if arch == "llama" and heads:
        return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)
    return weight
