"""A model's weights: loaded on their device, packed for a CPU, and how much one forward pass there may hold."""

from __future__ import annotations

from typing import Any

import torch

from src.engine.sampling import Tensor

PREFILL_TOKENS = {"cpu": 384, "cuda": 16384}  # tokens of one forward pass over prompts


def pass_tokens(model: Any) -> int:
    """How many tokens one forward pass over prompts may hold on this model's device."""
    return PREFILL_TOKENS.get(model.device.type, max(PREFILL_TOKENS.values()))


def load(folder: str, dtype: str, trust_remote_code: bool, device_map: str | None = None) -> Any:
    """The model in evaluation mode, on a GPU where there is one. With a device_map ("auto"), accelerate spreads it."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    options = {"dtype": getattr(torch, dtype), "weights_only": True, "trust_remote_code": trust_remote_code}
    model = kind.from_pretrained(folder, **options, device_map=device_map)
    return model.eval() if device_map else model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def spread(model: Any) -> bool:
    """Whether the model's layers lie on several devices. The disk counts as one."""
    return len(set(getattr(model, "hf_device_map", {}).values())) > 1


class PackedLinear(torch.nn.Linear):  # type: ignore[misc]
    """A float32 linear layer with its weight in oneDNN's own order, which is 1.5 times as fast for few rows.

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


def pack(model: Any) -> bool:
    """Pack the linear layers of a float32 decoder on a CPU, in place and one at a time. Gives whether any was packed.

    An embedding that is tied to the output layer keeps its weight. Code from a model's own repository is left alone,
    because it may read weights itself. So may an architecture of transformers, which Choice finds out.
    """
    ours = type(model).__module__.startswith("transformers.") and not model.config.is_encoder_decoder
    if (
        not ours
        or spread(model)
        or model.device.type != "cpu"
        or model.dtype != torch.float32
        or not torch.backends.mkldnn.is_available()
    ):
        return False
    linear = [name for name, module in model.named_modules() if type(module) is torch.nn.Linear]
    for name in linear:
        model.set_submodule(name, PackedLinear(model.get_submodule(name)))
    return bool(linear)


OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)
