"""Which way of running a model gets, found by trying; its weights loaded and packed."""

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
from src.engine.plain import Plain
from src.engine.sampling import Job, Sampler, Tensor

Backend = Decoder | EncoderDecoder | Plain


def backend(model: Any, sampler: Sampler) -> Backend:
    """The fastest way that gives this model's own logits, found by trying on a few tokens. Warns if none does."""
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
            found = _trusted(model, attention == SHARED, sampler, ends, trial, expected)
            if found:
                return found
    warnings.warn(
        f"{type(model).__name__} cannot share a prefix: its prompts run in plain batches, same result, slower.",
        stacklevel=2,
    )
    return replace(plain, tokens=0)


def spread(model: Any) -> bool:
    """Whether its layers lie on several devices, the disk included."""
    return len(set(getattr(model, "hf_device_map", {}).values())) > 1


def _attentions(model: Any, own: str) -> list[str]:
    """What to try, fastest first; nothing for a model on several devices: a prefix lies on one."""
    if spread(model):
        return []
    return [SHARED, own] if getattr(model, "_supports_attention_backend", False) else [own]


def _ends(model: Any) -> frozenset[int]:
    ends = model.generation_config.eos_token_id
    return frozenset(ends if isinstance(ends, list) else () if ends is None else (ends,))


def trial_jobs(model: Any) -> list[Job]:
    """Two prompts with a shared prefix, of different length, and options that branch; long enough for every kernel."""
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
        return None  # a cache that forgets or has another shape
    try:
        decoder = Decoder(model, shared, sampler, ends)
        decoder.prepare(trial)
        found = [score for done in decoder.run(trial) for score, _ in done.scores]
    except (TypeError, ValueError, AttributeError, IndexError, RuntimeError):
        return None
    decoder.tokens = 0
    tolerance = 1e-3 if model.dtype == torch.float32 else 3e-2
    return decoder if np.allclose(found, expected, rtol=tolerance, atol=tolerance) else None


class PackedLinear(torch.nn.Linear):  # type: ignore[misc]
    """A float32 linear layer whose weight lies in oneDNN's own order: half as fast again for few rows.

    `weight` keeps shape and dtype only (meta device).
    """

    def __init__(self, linear: Any):
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.weight = torch.nn.Parameter(linear.weight.detach().to("meta"), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


def pack(model: Any) -> None:
    """Pack the linear layers of a float32 decoder on a CPU, in place and one at a time.

    An embedding that the output layer is tied to stays as it was. Code from a model's own repository is left alone: it
    may read weights itself.
    """
    ours = type(model).__module__.startswith("transformers.") and not model.config.is_encoder_decoder
    if (
        not ours
        or spread(model)
        or model.device.type != "cpu"
        or model.dtype != torch.float32
        or not torch.backends.mkldnn.is_available()
    ):
        return
    for name, module in list(model.named_modules()):
        if type(module) is torch.nn.Linear:
            model.set_submodule(name, PackedLinear(module))


def load(folder: str, dtype: str, trust_remote_code: bool, device_map: str | None = None) -> Any:
    """The model in evaluation mode, on the GPU if there is one; with a device_map ("auto") spread by accelerate."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    options = {"dtype": getattr(torch, dtype), "weights_only": True, "trust_remote_code": trust_remote_code}
    model = kind.from_pretrained(folder, **options, device_map=device_map)
    return model.eval() if device_map else model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
