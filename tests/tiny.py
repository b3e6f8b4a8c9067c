"""Tiny random checkpoints of each architecture (2 layers, byte-level BPE), about 0.5 MB each, made in seconds."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from src.base.schema import Compat, Generation, Model
from src.engine.local import LocalEngine

CORPUS = [
    'Which is larger, a mouse or a house? The possible answers are "mouse", "house", but the correct one is "house".',
    'QUESTION: What floats on water?\nOPTIONS: (a) "a stone", (b) "a cork"\nANSWER: (b)',
]
END = "<|end|>"


def _configs(size: int) -> dict[str, Any]:
    from transformers import FalconConfig, GPT2Config, GPTJConfig, GPTNeoXConfig, LlamaConfig, T5Config

    ends = {"vocab_size": size, "bos_token_id": 0, "eos_token_id": 0}
    gpt = {"n_embd": 32, "n_layer": 2, "n_head": 4, **ends}
    falcon = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, **ends}
    llama = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return {
        "gpt2": GPT2Config(**gpt, n_positions=512),
        "gptj": GPTJConfig(**gpt, n_positions=512, rotary_dim=4),
        "falcon_7b": FalconConfig(**falcon, multi_query=True, parallel_attn=True, bias=False),
        "falcon_40b": FalconConfig(**falcon, new_decoder_architecture=True, num_kv_heads=2, bias=False),
        "falcon_alibi": FalconConfig(**falcon, multi_query=False, alibi=True, parallel_attn=False, bias=True),
        "llama": LlamaConfig(**llama, **ends, num_key_value_heads=2),
        "gpt_neox": GPTNeoXConfig(**llama, **ends),
        "t5": T5Config(
            vocab_size=size, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, pad_token_id=0,
            eos_token_id=0, decoder_start_token_id=0, tie_word_embeddings=False,
        ),
    }  # fmt: skip


def _tokenizer() -> Any:
    from tokenizers import ByteLevelBPETokenizer, Tokenizer
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(CORPUS, vocab_size=400, min_frequency=1, special_tokens=[END], show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(bpe.to_str()),
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_input_names=["input_ids", "attention_mask"],
    )


def tiny(arch: str, folder: Path, seed: int = 0) -> Path:
    """Save a checkpoint of this architecture with its tokenizer into `folder`, which is returned.

    Weights are wide, since default ones give flat logits and near-ties. arch: a key of _configs.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    tokenizer = _tokenizer()
    config = _configs(len(tokenizer))[arch]
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(), torch.no_grad():
        model = kind.from_config(config).eval()
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.25, generator=generator)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def local_engine(
    folder: Path, identity: str = "x", generation: Generation | None = None, **options: Any
) -> LocalEngine:
    """An engine on a folder. options: fields of Model and Compat by their names, and token_budget."""
    from src.engine.local import LocalEngine

    model, compat = Model(name="tiny"), Compat(name="tiny")
    for side in (model, compat):
        for name in [each.name for each in fields(side) if each.name in options]:
            setattr(side, name, options.pop(name))
    return LocalEngine(folder, identity, model, generation or Generation(), compat, **options)
