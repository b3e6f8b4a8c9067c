"""From last hidden states to logits, as the model itself does it: scaled, soft-capped, cut to its vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPast

from src.engine.sampling import Tensor

LOGITS = 1 << 24  # logits held at once, so that a large vocabulary takes no more memory than a small one


def body(model: Any) -> Any:
    """The stack of a model's decoder layers, from token ids to last hidden states."""
    found = (
        model.get_decoder() if hasattr(model, "get_decoder") else None,
        model.base_model,
        getattr(model, "model", None),
    )
    return next((each for each in found if each is not None and each is not model), model)


class States(BaseModelOutputWithPast):  # type: ignore[misc]
    """Last hidden states. Whatever else an architecture looks for (router logits, cross-attentions) is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


@contextmanager
def _answering(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """While it is open, the module's forward pass is `forward`."""
    before = module.__dict__.get("forward")  # of a model that accelerate has spread
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


def logits_of(model: Any, states: Tensor) -> Tensor:
    """Logits (n, vocabulary) of last hidden states (n, dim).

    The model's own forward pass runs with a body that answers these states, because architectures scale and cap their
    logits in ways that the output layer alone does not show.
    """

    def forward(*_: Any, **__: Any) -> Any:
        return States(last_hidden_state=states[None])

    ids = torch.zeros(1, len(states), dtype=torch.long, device=states.device)
    with _answering(body(model), forward):
        return model(input_ids=ids, use_cache=False).logits[0]


def rows_at_once(model: Any) -> int:
    """How many positions may be projected to the vocabulary at once."""
    return max(16, min(256, LOGITS // int(model.config.get_text_config(decoder=True).vocab_size)))
