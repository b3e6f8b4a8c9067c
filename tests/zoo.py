"""Tiny random checkpoints of the architectures of transformers, and an engine beside transformers alone on each.

A model has 2 to 4 layers and windows of 24 tokens, so that a prompt of 500 tokens crosses them. `made` writes one in
about a second. `expected` is what transformers says of it one prompt at a time, `compared` what an engine says beside.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.engine.job import Request, Result
from src.engine.local import LocalEngine
from src.question.prompts import Prompt
from tests.tiny import CORPUS

END, PAD, START = "<|end|>", "<|pad|>", "<|start|>"
WINDOW = 24  # tokens that a layer with a window sees
POSITIONS = 1024
MEMORY = 64  # the original window of a model whose rotary embedding was stretched

SIZE_OF_VOCABULARY = "filled in by config"
WIDTHS = {  # standard deviation of matrices and of embeddings, where others than these make texts that vary
    **dict.fromkeys(
        ("gemma2", "gemma3_text", "gemma3", "gemma4_text", "gemma4", "vaultgemma", "t5gemma", "t5gemma2"), (0.5, 0.1)
    ),
    **dict.fromkeys(("t5", "umt5", "longt5_local", "longt5_global", "switch_transformers"), (0.5, 1.5)),
    **dict.fromkeys(("xlstm", "jamba", "hrm_text"), (0.25, 0.25)),
    **dict.fromkeys(
        ("marian", "blenderbot_small", "bart", "plbart", "mvp", "led", "cohere", "encoder_decoder"), (1.0, 0.25)
    ),
}
WIDTH = (0.5, 0.25)

ENDS = {"bos_token_id": 2, "eos_token_id": 0, "pad_token_id": 1}
INNER = {"vocab_size": SIZE_OF_VOCABULARY, **ENDS}  # of a model whose sizes are one level down
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": POSITIONS}
DENSE = {**SIZE, "intermediate_size": 64}
GROUPED = {**DENSE, "num_key_value_heads": 2}
HEADS = {**GROUPED, "head_dim": 8}
SLIDING = {**HEADS, "sliding_window": WINDOW}
ALTERNATING = {"layer_types": ["sliding_attention", "full_attention"]}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = {
    **DENSE, "num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4, "v_head_dim": 8,
}  # fmt: skip
DEEPSEEK = {
    **LATENT, "moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip
DELTA = {
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
SCAN = {"mamba_d_state": 8, "mamba_d_conv": 4, "mamba_expand": 2}
HEADED_SCAN = {**SCAN, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_chunk_size": 16}
SEQ2SEQ = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": POSITIONS,
    "decoder_start_token_id": 0,
}  # fmt: skip
T5 = {
    "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4,
    "decoder_start_token_id": 1,
}  # fmt: skip


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


DECODERS: dict[str, tuple[str, dict[str, Any]]] = {  # by name: the type of its configuration, and its fields
    "gpt2": ("gpt2", GPT),
    "gptj": ("gptj", {**GPT, "rotary_dim": 4}),
    "gpt_neo": ("gpt_neo", {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": WINDOW,
                            "attention_types": [[["global", "local"], 1]], "max_position_embeddings": POSITIONS}),
    "gpt_neox": ("gpt_neox", DENSE),
    "gpt_neox_japanese": ("gpt_neox_japanese", {**SIZE, "intermediate_multiple_size": 2}),
    "openai_gpt": ("openai-gpt", GPT),
    "falcon_7b": ("falcon", {**SIZE, "multi_query": True, "parallel_attn": True, "bias": False}),
    "falcon_40b": ("falcon", {**SIZE, "new_decoder_architecture": True, "num_kv_heads": 2, "bias": False}),
    "falcon_alibi": ("falcon", {**SIZE, "multi_query": False, "alibi": True, "parallel_attn": False, "bias": True}),
    "bloom": ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "mpt": ("mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": POSITIONS}),
    "opt": ("opt", {**SIZE, "ffn_dim": 64, "word_embed_proj_dim": 32}),
    "codegen": ("codegen", {**GPT, "rotary_dim": 4, "n_ctx": POSITIONS}),
    "gpt_bigcode": ("gpt_bigcode", GPT),
    "starcoder2": ("starcoder2", {**GROUPED, "sliding_window": WINDOW, "use_bias": True}),
    "phi": ("phi", DENSE),
    "phi3": ("phi3", {**GROUPED, "sliding_window": WINDOW}),
    "phimoe": ("phimoe", {**GROUPED, **LOCAL_EXPERTS}),
    "llama": ("llama", GROUPED),
    "llama_dynamic": ("llama", {**GROUPED, "max_position_embeddings": 4 * MEMORY, **rope("dynamic", factor=4.0)}),
    "llama_longrope": ("llama", {**GROUPED, **rope(
        "longrope", factor=16.0, original_max_position_embeddings=MEMORY, short_factor=[1.0, 1.1, 1.2, 1.3],
        long_factor=[1.0, 3.0, 7.0, 15.0])}),
    "llama_yarn": ("llama", {**GROUPED, **rope("yarn", factor=16.0, original_max_position_embeddings=MEMORY)}),
    "llama_linear": ("llama", {**GROUPED, **rope("linear", factor=16.0)}),
    "llama_llama3": ("llama", {**GROUPED, **rope("llama3", factor=8.0, original_max_position_embeddings=MEMORY,
                                                 low_freq_factor=1.0, high_freq_factor=4.0)}),
    "mistral": ("mistral", {**GROUPED, "sliding_window": WINDOW}),
    "ministral": ("ministral", {**SLIDING, **ALTERNATING}),
    "ministral3": ("ministral3", {**HEADS, **rope("yarn", factor=16.0, original_max_position_embeddings=MEMORY,
                                                  llama_4_scaling_beta=0.1)}),
    "mixtral": ("mixtral", {**GROUPED, **LOCAL_EXPERTS, "sliding_window": WINDOW}),
    "qwen2": ("qwen2", {**GROUPED, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}),
    "qwen2_moe": ("qwen2_moe", {**GROUPED, **EXPERTS, "shared_expert_intermediate_size": 32}),
    "qwen3": ("qwen3", HEADS),
    "qwen3_moe": ("qwen3_moe", {**HEADS, **EXPERTS}),
    "qwen3_next": ("qwen3_next", {**HEADS, **EXPERTS, **DELTA, "shared_expert_intermediate_size": 32}),
    "qwen3_5": ("qwen3_5_text", {**HEADS, **DELTA}),
    "qwen3_5_moe": ("qwen3_5_moe_text", {**HEADS, **EXPERTS, **DELTA, "shared_expert_intermediate_size": 32}),
    "gemma": ("gemma", HEADS),
    "gemma2": ("gemma2", {**SLIDING, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 5.0,
                          "final_logit_softcapping": 10.0}),
    "gemma3_text": ("gemma3_text", {**SLIDING, **ALTERNATING, "query_pre_attn_scalar": 8}),
    "gemma3": ("gemma3", {
        "text_config": {**SLIDING, **ALTERNATING, "query_pre_attn_scalar": 8,
                        **INNER},
        "vision_config": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                          "image_size": 28, "patch_size": 14, "vision_use_head": False},
        "mm_tokens_per_image": 4, "image_token_index": 5, "boi_token_index": 3, "eoi_token_index": 4}),
    "llama4": ("llama4", {
        "text_config": {
            **HEADS, "intermediate_size_mlp": 64, "num_local_experts": 2, "attention_chunk_size": WINDOW,
            "no_rope_layers": [1, 0], "floor_scale": 32, "attn_scale": 1.0, **INNER},
        "vision_config": {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
                          "image_size": 28, "patch_size": 14, "vision_output_dim": 16, "projector_input_dim": 16,
                          "projector_output_dim": 16}}),
    "qwen3_5_vision": ("qwen3_5", {
        "text_config": {**HEADS, **DELTA, **INNER},
        "vision_config": {"hidden_size": 16, "intermediate_size": 16, "depth": 1, "num_heads": 2,
                          "out_hidden_size": 32}}),
    "gemma4": ("gemma4", {
        "text_config": {**SLIDING, **ALTERNATING, "global_head_dim": 16, "hidden_size_per_layer_input": 8,
                        "vocab_size_per_layer_input": SIZE_OF_VOCABULARY, **INNER},
        "vision_config": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                          "num_key_value_heads": 2, "head_dim": 8},
        "image_token_id": 5, "boi_token_id": 3, "eoi_token_id": 4, "video_token_id": 6, "audio_token_id": 7,
        "boa_token_id": 8, "eoa_token_id": 9}),
    "gemma3n_text": ("gemma3n_text", {
        **SLIDING, "num_hidden_layers": 4, "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 2, "laurel_rank": 8, "altup_num_inputs": 2,
        "vocab_size_per_layer_input": SIZE_OF_VOCABULARY,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0]}),
    "gemma4_text": ("gemma4_text", {
        **SLIDING, **ALTERNATING, "global_head_dim": 16, "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": SIZE_OF_VOCABULARY}),
    "vaultgemma": ("vaultgemma", {**SLIDING, **ALTERNATING, "query_pre_attn_scalar": 8}),
    "olmo": ("olmo", {**GROUPED, "clip_qkv": 2.0}),
    "olmo2": ("olmo2", GROUPED),
    "olmo3": ("olmo3", {**GROUPED, "sliding_window": WINDOW, **ALTERNATING}),
    "olmoe": ("olmoe", {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2}),
    "olmo_hybrid": ("olmo_hybrid", {**GROUPED, **DELTA}),
    "flex_olmo": ("flex_olmo", {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2}),
    "gpt_oss": ("gpt_oss", {**SLIDING, **LOCAL_EXPERTS, **ALTERNATING, **rope("default")}),
    "cohere": ("cohere", {**GROUPED, "logit_scale": 1.5, "use_qk_norm": True}),
    "cohere2": ("cohere2", {**GROUPED, "logit_scale": 1.5, "sliding_window": WINDOW, **ALTERNATING}),
    "granite": ("granite", {**GROUPED, "embedding_multiplier": 4.0, "attention_multiplier": 0.5,
                            "residual_multiplier": 0.6, "logits_scaling": 0.5}),
    "granitemoe": ("granitemoe", {**GROUPED, **LOCAL_EXPERTS, "attention_multiplier": 0.5}),
    "granitemoeshared": ("granitemoeshared", {**GROUPED, **LOCAL_EXPERTS, "shared_intermediate_size": 32,
                                              "attention_multiplier": 0.5}),
    "granitemoehybrid": ("granitemoehybrid", {
        **GROUPED, **LOCAL_EXPERTS, **HEADED_SCAN, "layer_types": ["mamba", "attention"], "attention_multiplier": 0.5,
        "shared_intermediate_size": 32}),
    "stablelm": ("stablelm", {**GROUPED, "partial_rotary_factor": 0.5}),
    "persimmon": ("persimmon", DENSE),
    "nemotron": ("nemotron", GROUPED),
    "nemotron_h": ("nemotron_h", {
        **HEADS, "layers_block_type": ["mamba", "attention", "mlp"], "num_hidden_layers": 3, "mamba_num_heads": 4,
        "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 1, "chunk_size": 16}),
    "exaone4": ("exaone4", {**SLIDING, **ALTERNATING}),
    "glm": ("glm", HEADS),
    "glm4": ("glm4", HEADS),
    "glm4_moe": ("glm4_moe", {**HEADS, "moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2,
                              "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}),
    "smollm3": ("smollm3", {**GROUPED, "no_rope_layers": [1, 0]}),
    "llama4_text": ("llama4_text", {
        **HEADS, "intermediate_size_mlp": 64, "num_local_experts": 2, "attention_chunk_size": WINDOW,
        "no_rope_layers": [1, 0], "floor_scale": 32, "attn_scale": 1.0}),
    "deepseek_v2": ("deepseek_v2", {**DEEPSEEK, "topk_method": "group_limited_greedy"}),
    "deepseek_v3": ("deepseek_v3", DEEPSEEK),
    "minicpm3": ("minicpm3", {**LATENT, "dim_model_base": 32, "scale_emb": 2}),
    "youtu": ("youtu", LATENT),
    "arcee": ("arcee", GROUPED),
    "apertus": ("apertus", GROUPED),
    "seed_oss": ("seed_oss", HEADS),
    "helium": ("helium", HEADS),
    "ernie4_5": ("ernie4_5", HEADS),
    "ernie4_5_moe": ("ernie4_5_moe", {**GROUPED, "moe_intermediate_size": 32, "moe_num_experts": 4, "moe_k": 2,
                                      "moe_num_shared_experts": 1, "moe_layer_start_index": 1}),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", HEADS),
    "dots1": ("dots1", {**SLIDING, "moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2,
                        "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "n_shared_experts": 1,
                        **ALTERNATING}),
    "dbrx": ("dbrx", {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": POSITIONS,
                      "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10000.0},
                      "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2}}),
    "jetmoe": ("jetmoe", {"hidden_size": 32, "num_hidden_layers": 2, "num_key_value_heads": 2, "kv_channels": 8,
                          "intermediate_size": 32, "num_local_experts": 4, "num_experts_per_tok": 2,
                          "max_position_embeddings": POSITIONS}),
    "diffllama": ("diffllama", GROUPED),
    "doge": ("doge", {**GROUPED, "keep_window_size": POSITIONS}),
    "bitnet": ("bitnet", GROUPED),
    "nanochat": ("nanochat", GROUPED),
    "modernbert_decoder": ("modernbert-decoder", {**DENSE, "local_attention": 2 * WINDOW, **ALTERNATING}),
    "minimax": ("minimax", {**HEADS, **LOCAL_EXPERTS, "layer_types": ["linear_attention", "full_attention"],
                            "block_size": 16}),
    "afmoe": ("afmoe", {**SLIDING, **EXPERTS, **ALTERNATING}),
    "cohere2_moe": ("cohere2_moe", {**SLIDING, "num_experts": 4, "num_experts_per_tok": 2, "logit_scale": 1.5,
                                    **ALTERNATING}),
    "exaone_moe": ("exaone_moe", {**SLIDING, **EXPERTS, **ALTERNATING, "sliding_window_pattern": None}),
    "granite_swa": ("granite_swa", {**GROUPED, "attention_multiplier": 0.5, "sliding_window": WINDOW, **ALTERNATING}),
    "hunyuan_v1_moe": ("hunyuan_v1_moe", {**HEADS, "num_experts": 4, "moe_topk": 2}),
    "internlm3": ("internlm3", HEADS),
    "jais2": ("jais2", GROUPED),
    "lfm3": ("lfm3", {**SLIDING, "layer_types": ["conv", "full_attention"]}),
    "mimo_v2_flash": ("mimo_v2_flash", {
        **SLIDING, **ALTERNATING, "moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2,
        "v_head_dim": 8}),
    "minimax_m2": ("minimax_m2", {**HEADS, **LOCAL_EXPERTS}),
    "solar_open": ("solar_open", {**HEADS, "moe_intermediate_size": 32, "n_routed_experts": 4,
                                  "num_experts_per_tok": 2}),
    "cwm": ("cwm", {**SLIDING, **ALTERNATING, **rope("default")}),
    "deepseek_v32": ("deepseek_v32", {**DEEPSEEK, "index_topk": 16, "index_head_dim": 8, "index_n_heads": 8}),
    "glm4_moe_lite": ("glm4_moe_lite", {**DEEPSEEK, "n_group": 1}),
    "glm_moe_dsa": ("glm_moe_dsa", {**DEEPSEEK, "n_group": 1, "index_topk": 16, "index_head_dim": 8,
                                    "index_n_heads": 8}),
    "hyperclovax": ("hyperclovax", {**GROUPED, "attention_multiplier": 0.5}),
    "bailing_hybrid": ("bailing_hybrid", {
        **LATENT, "moe_intermediate_size": 32, "num_local_experts": 4, "num_experts_per_tok": 2, "n_group": 2,
        "topk_group": 1, "first_k_dense_replace": 1, "head_dim": 8,
        "layer_types": ["linear_attention", "full_attention"]}),
    "zaya": ("zaya", {**HEADS, "num_experts": 4, "moe_intermediate_size": 32, "router_hidden_size": 16}),
    "hrm_text": ("hrm_text", HEADS),
    "laguna": ("laguna", {**SLIDING, **EXPERTS, **ALTERNATING, "shared_expert_intermediate_size": 32}),
    "longcat_flash": ("longcat_flash", {
        **LATENT, "num_layers": 1, "ffn_hidden_size": 64, "expert_ffn_hidden_size": 32, "n_routed_experts": 4,
        "zero_expert_num": 2, "moe_topk": 2, "head_dim": 4}),
    "mellum": ("mellum", {**SLIDING, **EXPERTS, **ALTERNATING}),
    "kolibri1": ("kolibri1", {**SLIDING, **EXPERTS, **ALTERNATING, "shared_expert_intermediate_size": 32}),
    "flint": ("flint", {**SLIDING, **EXPERTS, **ALTERNATING, "shared_expert_intermediate_size": 32}),
    "rembert_decoder": ("rembert", {**DENSE, "is_decoder": True, "input_embedding_size": 16,
                                    "output_embedding_size": 48}),
    "mamba": ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    "mamba2": ("mamba2", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "num_heads": 4, "head_dim": 16,
                          "n_groups": 1, "chunk_size": 16}),
    "falcon_mamba": ("falcon_mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    "falcon_h1": ("falcon_h1", {**HEADS, **HEADED_SCAN, "mamba_d_ssm": 64}),
    "jamba": ("jamba", {**GROUPED, **SCAN, "num_experts": 2, "num_experts_per_tok": 1, "attn_layer_period": 2,
                        "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
                        "use_mamba_kernels": False}),
    "bamba": ("bamba", {**GROUPED, **HEADED_SCAN, "attn_layer_indices": [1]}),
    "zamba": ("zamba", {
        **DENSE, **SCAN, "num_key_value_heads": 4, "num_hidden_layers": 4, "n_mamba_heads": 2,
        "layers_block_type": ["mamba", "hybrid"] * 2, "use_mamba_kernels": False}),
    "zamba2": ("zamba2", {
        **DENSE, **SCAN, "num_key_value_heads": 4, "num_hidden_layers": 4, "n_mamba_heads": 4, "mamba_ngroups": 1,
        "layers_block_type": ["mamba", "hybrid"] * 2, "chunk_size": 16, "use_mamba_kernels": False}),
    "rwkv": ("rwkv", {"hidden_size": 32, "num_hidden_layers": 2, "context_length": POSITIONS}),
    "recurrent_gemma": ("recurrent_gemma", {
        **DENSE, "num_key_value_heads": 2, "num_hidden_layers": 3, "lru_width": 32, "attention_window_size": WINDOW}),
    "lfm2": ("lfm2", {**GROUPED, "layer_types": ["conv", "full_attention"], "block_multiple_of": 16}),
    "lfm2_moe": ("lfm2_moe", {**GROUPED, **EXPERTS, "layer_types": ["conv", "full_attention"],
                              "num_dense_layers": 1}),
    "kimi_linear": ("kimi_linear", {
        **LATENT, "q_lora_rank": None, "moe_intermediate_size": 32, "num_local_experts": 4, "num_experts_per_tok": 2,
        "linear_head_dim": 8, "linear_num_heads": 4, "layer_types": ["linear_attention", "full_attention"]}),
    "xlstm": ("xlstm", {"hidden_size": 128, "num_hidden_layers": 2, "num_heads": 4, "chunk_size": 16}),
    "xglm": ("xglm", {"d_model": 32, "ffn_dim": 64, "num_layers": 2, "attention_heads": 4,
                      "max_position_embeddings": POSITIONS}),
    "biogpt": ("biogpt", DENSE),
    "ctrl": ("ctrl", {**GPT, "dff": 64}),
    "bert_decoder": ("bert", {**DENSE, "is_decoder": True}),
    "bart_decoder": ("bart", {**SEQ2SEQ, "is_encoder_decoder": False, "is_decoder": True}),
}  # fmt: skip

ENCODER_DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("t5", T5),
    "flan_t5": ("t5", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": ("mt5", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "umt5": ("umt5", T5),
    "longt5_local": ("longt5", {**T5, "local_radius": 15}),
    "longt5_global": ("longt5", {**T5, "local_radius": 15, "encoder_attention_type": "transient-global",
                                 "global_block_size": 16}),
    "switch_transformers": ("switch_transformers", {
        **T5, "num_experts": 2, "expert_capacity": 1024, "num_sparse_encoder_layers": 1,
        "num_sparse_decoder_layers": 1}),
    "t5gemma": ("t5gemma", {
        side: {**SLIDING, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 10.0,
               **INNER} for side in ("encoder", "decoder")}),
    "bart": ("bart", SEQ2SEQ),
    "mbart": ("mbart", SEQ2SEQ),
    "plbart": ("plbart", SEQ2SEQ),
    "mvp": ("mvp", SEQ2SEQ),
    "pegasus": ("pegasus", SEQ2SEQ),
    "pegasus_x": ("pegasus_x", {**SEQ2SEQ, "num_global_tokens": 4, "block_size": 16}),
    "bigbird_pegasus": ("bigbird_pegasus", {**SEQ2SEQ, "attention_type": "original_full"}),
    "bigbird_pegasus_sparse": ("bigbird_pegasus", {**SEQ2SEQ, "block_size": 8, "num_random_blocks": 1}),
    "blenderbot": ("blenderbot", SEQ2SEQ),
    "blenderbot_small": ("blenderbot-small", SEQ2SEQ),
    "marian": ("marian", SEQ2SEQ),
    "encoder_decoder": ("encoder-decoder", {
        "encoder": {"model_type": "bert", **DENSE, **INNER},
        "decoder": {"model_type": "bert", **DENSE, **INNER, "is_decoder": True,
                    "add_cross_attention": True},
        "decoder_start_token_id": 2}),
    "t5gemma2": ("t5gemma2", {
        "encoder": {
            "text_config": {**SLIDING, **ALTERNATING, "query_pre_attn_scalar": 8, **INNER},
            "vision_config": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
                              "num_attention_heads": 2, "image_size": 28, "patch_size": 14, "vision_use_head": False},
            "mm_tokens_per_image": 4},
        "decoder": {**SLIDING, **ALTERNATING, "query_pre_attn_scalar": 8, **INNER}}),
    "m2m_100": ("m2m_100", SEQ2SEQ),
    "nllb_moe": ("nllb-moe", {**SEQ2SEQ, "num_experts": 2, "encoder_sparse_step": 2, "decoder_sparse_step": 2}),
    "led": ("led", {**SEQ2SEQ, "max_encoder_position_embeddings": POSITIONS,
                    "max_decoder_position_embeddings": POSITIONS, "attention_window": 32}),
    "fsmt": ("fsmt", {**SEQ2SEQ, "src_vocab_size": SIZE_OF_VOCABULARY, "tgt_vocab_size": SIZE_OF_VOCABULARY}),
}  # fmt: skip
NOT_CAUSAL: dict[str, tuple[str, dict[str, Any]]] = {  # transformers runs them, but a token sees the next ones
    "bert": ("bert", DENSE),
    "roberta": ("roberta", {**DENSE, "max_position_embeddings": POSITIONS + 2}),
    "xlnet": ("xlnet", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}),
    "xlm": ("xlm", {"emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": POSITIONS}),
    "reformer": ("reformer", {
        "is_decoder": True, "hidden_size": 32, "num_attention_heads": 4, "attention_head_size": 8,
        "feed_forward_size": 64, "attn_layers": ["local", "lsh"], "axial_pos_embds": False, "num_buckets": 8,
        "local_attn_chunk_length": 16, "lsh_attn_chunk_length": 16, "max_position_embeddings": POSITIONS,
        "hash_seed": 0}),
    "prophetnet": ("prophetnet", {
        "hidden_size": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_encoder_layers": 2,
        "num_decoder_layers": 2, "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4,
        "max_position_embeddings": POSITIONS, "decoder_start_token_id": 2, "pad_token_id": 0, "eos_token_id": 1}),
    "cpmant": ("cpmant", {"hidden_size": 32, "num_attention_heads": 4, "dim_head": 8, "dim_ff": 64,
                          "num_hidden_layers": 2}),
}  # fmt: skip
ZOO = DECODERS | ENCODER_DECODERS | NOT_CAUSAL


def config(name: str, size: int) -> Any:
    """The configuration of a checkpoint of the zoo with `size` tokens."""
    from transformers import AutoConfig

    def filled(fields: dict[str, Any]) -> dict[str, Any]:
        return {
            key: size if value == SIZE_OF_VOCABULARY else filled(value) if isinstance(value, dict) else value
            for key, value in fields.items()
        }

    kind, fields = ZOO[name]
    return AutoConfig.for_model(kind, **filled({**INNER, **fields}))


def tokenizer() -> Any:
    """A byte-level BPE of about 290 tokens that adds nothing to a text."""
    from tokenizers import ByteLevelBPETokenizer, Tokenizer
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    special = [END, PAD, START]
    bpe.train_from_iterator(CORPUS, vocab_size=300, min_frequency=1, special_tokens=special, show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(bpe.to_str()), bos_token=START, eos_token=END, pad_token=PAD,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def made(name: str, folder: Path, seed: int = 0) -> Path:
    """Save a checkpoint of the zoo with its tokenizer into `folder`, which is returned.

    Matrices are wide, since default ones give flat logits and near-ties. Vectors are moved a little: a bias of zero
    and a norm of one would hide a way that forgets them. So are decays, which keep a state over many tokens.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    words = tokenizer()
    settings = config(name, len(words))
    kind = AutoModelForSeq2SeqLM if settings.is_encoder_decoder else AutoModelForCausalLM
    generator = torch.Generator().manual_seed(seed)
    matrices, embeddings = WIDTHS.get(name, WIDTH)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = kind.from_config(settings).eval()
        tables = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
        tables += [model.get_output_embeddings()] if model.get_output_embeddings() else []
        narrow = {id(table.weight) for table in tables}
        for part, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            small = weight.dim() < 2 or part.endswith("A_log")
            weight.copy_(weight + 0.1 * noise if small else noise * (embeddings if id(weight) in narrow else matrices))
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


# ---- What is asked

WORDS = re.findall(r"\w+", "mouse house stone cork water float answer larger is the of and not tree river blue")
EXEMPLARS = 'Which is larger, a mouse or a house? The correct answer is "house".\n\nWhat floats? It is "a cork".\n\n'
OPTIONS = ("mouse", "house of cards", "house of stone")  # two of them begin alike


def _prompts(name: str, prefix: str, words: Sequence[int]) -> list[Prompt]:
    made = []
    for i, count in enumerate(words):
        text = " ".join(WORDS[(i * 7 + j * j + j // 16 + 5 * i * j) % 16] for j in range(count)) + " The answer is"
        options = OPTIONS[: 3 - i % 2]
        continuations = tuple(f' "{option}".' for option in options)
        made.append(Prompt(f"{name}/{i}", "g", prefix, text, options, continuations, 0, "mouse"))
    return made


Cells = Sequence[Sequence[Prompt]]


def cells() -> list[list[Prompt]]:
    """Prompts as cells ask them: of 20 to 54 tokens and of 300 to 520, each without exemplars and with shared ones."""
    return [
        _prompts("short", "", (5, 8, 11)),
        _prompts("short with exemplars", 2 * EXEMPLARS, (5, 8, 11)),
        _prompts("long", "", (130, 90)),
        _prompts("long with exemplars", 8 * EXEMPLARS, (4, 8, 22)),
    ]


def beyond() -> list[list[Prompt]]:
    """A cell whose first prompt is longer than every window that has an end (POSITIONS)."""
    return [_prompts("beyond", "", (330, 5))]


# ---- What transformers says

NEAR_TIE = 1e-3  # logits between the two best tokens, below which another order of sums may choose the other one


@dataclass(frozen=True)
class Answer:
    """What transformers alone says of one prompt.

    margins: by token, logits between the best and the second. logprobs: of each option, natural logarithm.
    """

    tokens: tuple[int, ...]
    margins: tuple[float, ...]
    logprobs: tuple[float, ...]


def loaded(folder: Path) -> Any:
    """The checkpoint as transformers runs it, in float32."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    seq2seq = AutoConfig.from_pretrained(folder).is_encoder_decoder
    kind = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    return kind.from_pretrained(folder, dtype=torch.float32).eval()


def generated(engine: LocalEngine, model: Any, prompt: Prompt) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Greedy tokens by `generate`, and the margin of each. Nothing but ids is left of the model's own settings."""
    import torch
    from transformers import GenerationConfig

    names = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    own = {name: getattr(model.generation_config, name) for name in names}
    model.generation_config = GenerationConfig(**own)
    ids = torch.tensor([engine.ids(prompt)])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=engine.budget(prompt),
        output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    best = [logits[0].float().topk(2).values for logits in out.logits]
    tokens = out.sequences[0, 1 if engine.config.is_encoder_decoder else ids.shape[1] :].tolist()
    return tuple(tokens), tuple(float(first - second) for first, second in best)


def forward_logprob(engine: LocalEngine, model: Any, prompt: Prompt, full: Sequence[int]) -> float:
    """Log-probability of one option by one plain forward pass. full: an entry of engine.scored."""
    import torch

    ids = engine.ids(prompt)
    if engine.config.is_encoder_decoder:
        settings, target = model.generation_config, list(full)
        start = settings.bos_token_id if settings.decoder_start_token_id is None else settings.decoder_start_token_id
        logits = model(
            input_ids=torch.tensor([ids]), decoder_input_ids=torch.tensor([[start, *full]]), use_cache=False
        ).logits[0, :-1]  # FSMT sees the next tokens where it fills a cache
    else:
        first = next(i for i in range(len(full)) if full[: i + 1] != ids[: i + 1])
        logits, target = model(torch.tensor([full])).logits[0, first - 1 : -1], list(full[first:])
    return float(logits.float().log_softmax(-1)[range(len(target)), target].double().sum())


def expected(engine: LocalEngine, asked: Cells | None = None) -> dict[str, Answer]:
    """What transformers says of every prompt, of `cells` by default. Each call is on weights no call has touched."""
    import torch

    model, answers = loaded(engine.folder), {}
    with torch.no_grad():
        for prompt in (prompt for cell in asked or cells() for prompt in cell):
            tokens, margins = generated(engine, copy.deepcopy(model), prompt)
            options = engine.scored(prompt)
            logprobs = tuple(forward_logprob(engine, copy.deepcopy(model), prompt, full) for full in options)
            answers[prompt.id] = Answer(tokens, margins, logprobs)
    return answers


# ---- What an engine says beside it


@dataclass(frozen=True)
class Comparison:
    """An engine beside transformers.

    way: how the engine ran. differing: ids of prompts whose text is another one without a near-tie. near_ties: those
    with one. largest: difference of log-likelihoods, in nats. steady: whether the engine says the same, to the last
    bit, when the same command is given again.
    """

    way: str
    differing: tuple[str, ...]
    near_ties: tuple[str, ...]
    largest: float
    steady: bool


def answered(engine: LocalEngine, asked: Cells | None = None) -> dict[str, Result]:
    """What an engine says of every prompt, cell by cell."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a model runs in a slower way is what `way` says
        batches = [batch for cell in asked or cells() for batch in engine.run([Request(p, (0,), True) for p in cell])]
    return {result.prompt_id: result for batch in batches for result in batch}


def way(engine: LocalEngine) -> str:
    """How the engine ran its model."""
    proof = getattr(engine, "proof", None)
    return str(proof.way) if proof else type(engine.backend).__name__


def compared(engine: LocalEngine, answers: dict[str, Answer] | None = None, asked: Cells | None = None) -> Comparison:
    """The engine beside transformers on its folder. answers: those of `expected`, where they are known."""
    answers = answers or expected(engine, asked)
    another = copy.copy(engine)
    another.__dict__.pop("choice", None)  # as the same command would do it again
    results, again = answered(engine, asked), answered(another, asked)
    differing: list[str] = []
    near_ties: list[str] = []
    largest = 0.0
    for name, answer in answers.items():
        found, scored = results[name].completions[0], results[name].likelihood
        place = _parting(engine, answer, found.text, found.n_tokens)
        if place is not None:
            (near_ties if min(answer.margins[: place + 1]) < NEAR_TIE else differing).append(name)
        logprobs = scored.logprob if scored else ()
        gaps = [abs(one - other) for one, other in zip(logprobs, answer.logprobs, strict=True)]
        largest = max([largest, *(gap if gap == gap else float("inf") for gap in gaps)])
    return Comparison(way(engine), tuple(differing), tuple(near_ties), largest, results == again)


def _parting(engine: LocalEngine, answer: Answer, text: str, n_tokens: int) -> int | None:
    """The token of the answer from which a text of n_tokens is another one. None where it is the same."""
    wanted = [engine.text((), answer.tokens[: end + 1]) for end in range(len(answer.tokens))]
    if wanted[-1] == text and len(answer.tokens) == n_tokens:
        return None
    parts = [end for end, begun in enumerate(wanted) if not text.startswith(begun.rstrip("\ufffd"))]
    return parts[0] if parts else len(wanted) - 1
