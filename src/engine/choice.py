"""Which way of running a loaded model is used. A trial on a few tokens decides."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from src.engine.attention import FLASH_FROM, SHARED
from src.engine.decoder import SHARE_FROM, Decoder
from src.engine.encoder_decoder import EncoderDecoder
from src.engine.job import Job
from src.engine.loading import pack, spread
from src.engine.plain import Plain
from src.engine.sampling import Sampler

Backend = Decoder | EncoderDecoder | Plain


def backend(model: Any, sampler: Sampler) -> Backend:
    """The fastest way that reproduces this model's own logits on a few tokens. Warns where only plain batches do."""
    ends = _ends(model)
    if model.config.is_encoder_decoder:
        return EncoderDecoder(model, sampler, ends)
    plain, own = Plain(model, sampler, ends), model.config._attn_implementation
    trial = trial_jobs(model)
    with torch.inference_mode():
        expected = [plain.score(job.ids, full)[0] for job in trial for full in job.scored]
        pack(model)
        for attention in _attentions(model, own):
            model.set_attn_implementation(attention)
            decoder = _trusted(model, attention == SHARED, sampler, ends, trial, expected)
            if decoder:
                return decoder
    warnings.warn(
        f"{type(model).__name__} cannot share a prefix: its prompts run in plain batches, same result, slower.",
        stacklevel=2,
    )
    return replace(plain, tokens=0)


def _attentions(model: Any, own: str) -> list[str]:
    """Attention implementations to try, fastest first. None for a model on several devices."""
    if spread(model):  # a prefix lies on one device
        return []
    return [SHARED, own] if getattr(model, "_supports_attention_backend", False) else [own]


def _ends(model: Any) -> frozenset[int]:
    ends = model.generation_config.eos_token_id
    return frozenset(ends if isinstance(ends, list) else () if ends is None else (ends,))


def trial_jobs(model: Any) -> list[Job]:
    """Two prompts that share a prefix, of different lengths, with branching options. Together they run every kernel."""
    ids = tuple(i % model.config.vocab_size for i in range(3, 3 + SHARE_FROM + FLASH_FROM + 6))
    other = (*ids[: SHARE_FROM + 2], 4, *ids[SHARE_FROM + 3 : -3])
    return [
        Job(ids, (), 1, tuple((*ids, *t) for t in ((5, 7, 11), (5, 8), (9,)))),
        Job(other, (), 1, ((*other, 6, 5),)),
    ]


def _trusted(
    model: Any, shared: bool, sampler: Sampler, ends: frozenset[int], trial: Sequence[Job], expected: Sequence[float]
) -> Decoder | None:
    """A Decoder if it takes this model and agrees with a plain forward pass, else None."""
    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=model.config).layers):
        return None  # its cache drops tokens or has another shape
    try:
        decoder = Decoder(model, shared, sampler, ends)
        decoder.prepare(trial)
        scores = [score for done in decoder.run(trial) for score, _ in done.scores]
    except (TypeError, ValueError, AttributeError, IndexError, RuntimeError):
        return None
    decoder.tokens = 0
    tolerance = 1e-3 if model.dtype == torch.float32 else 3e-2
    return decoder if np.allclose(scores, expected, rtol=tolerance, atol=tolerance) else None
