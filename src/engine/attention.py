"""Attention over a prefix that all rows share and each row's own block, and the cache that holds that block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.cache_utils import DynamicLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from src.engine.sampling import Tensor

FLASH_FROM = 16  # queries a row, from which torch's flash kernel is faster on a CPU (docs/log.md)
NO_REACH = (None, None)


@dataclass
class Sight:
    """What the queries of one forward pass see, for layers of every reach.

    prefix: by layer, keys and values (kv heads, prefix, dim) at the positions 0 to prefix - 1.
    seen: bool (rows, queries, slots), the row's own slots that hold a token before the query, whatever its distance.
    position (rows, queries) and where (rows, slots): positions of the queries and of the own slots.
    mask: `seen` as the layers take it, additive.
    """

    prefix: Sequence[tuple[Tensor, Tensor]]
    seen: Tensor
    position: Tensor
    where: Tensor
    mask: Tensor
    by_reach: dict[tuple[int | None, int | None], tuple[int, Tensor | None, Tensor]] = field(default_factory=dict)

    def within(self, window: int | None, chunk: int | None) -> tuple[int, Tensor | None, Tensor]:
        """(first slot of the prefix in reach, its mask, the own mask) of a layer that reaches so far.

        window: a query at position p sees positions above p - window. chunk: it sees its own chunk of positions. A mask
        is additive, (rows, queries, slots) of the prefix from that first slot on and (rows, 1, queries, own slots). The
        prefix has no mask where every query sees all of it.
        """
        if (window, chunk) not in self.by_reach:
            self.by_reach[window, chunk] = self._within(window, chunk)
        return self.by_reach[window, chunk]

    def _within(self, window: int | None, chunk: int | None) -> tuple[int, Tensor | None, Tensor]:
        least = self.position.clone() if chunk else torch.zeros_like(self.position)  # the first position in reach
        if chunk:
            least = least // chunk * chunk
        if window:
            least = torch.maximum(least, self.position - window + 1)
        first, length = max(0, int(least.min())), self.prefix[0][0].shape[1] if self.prefix else 0
        before = None
        if first < length and int(least.max()) > first:
            slots = torch.arange(first, length, device=least.device)
            before = additive(slots >= least[:, :, None], self.mask)
        near = self.where[:, None, :] >= least[:, :, None]
        own = self.mask if bool((near | ~self.seen).all()) else additive(self.seen & near, self.mask)[:, None]
        return min(first, length), before, own


def additive(seen: Tensor, like: Tensor) -> Tensor:
    """0 where `seen`, the least number of the dtype of `like` elsewhere."""
    mask = torch.zeros(seen.shape, dtype=like.dtype, device=like.device)
    return mask.masked_fill_(~seen.to(like.device), torch.finfo(like.dtype).min)


_SIGHT: ContextVar[Sight | None] = ContextVar("sight", default=None)
"""Not an argument of the model, because not every architecture hands unknown arguments on to its attention."""


@contextmanager
def seeing(sight: Sight) -> Iterator[None]:
    """While it is open, `shared_prefix_attention` attends to what `sight` says."""
    token = _SIGHT.set(sight)
    try:
        yield
    finally:
        _SIGHT.reset(token)


def reach(module: Any, given: dict[str, Any]) -> tuple[int | None, int | None]:
    """(window, chunk) of an attention layer in tokens, None for none.

    given: the keywords of its call. A layer that hands over no window is of the type its configuration lists.
    """
    config: Any = getattr(module, "config", None)
    types = getattr(config, "layer_types", None)
    kind = types[module.layer_idx] if types and module.layer_idx < len(types) else None
    if kind == "chunked_attention":
        return None, config.attention_chunk_size
    if "sliding_window" in given:
        return given["sliding_window"], None
    return (config.sliding_window, None) if kind == "sliding_attention" else NO_REACH


def layer_of(module: Any, layers: int) -> int:
    """The layer of the cache that an attention layer reads, of `layers` that it has.

    A layer that has no keys of its own takes those of the last layer of its type that has.
    """
    if not getattr(module, "is_kv_shared_layer", False):
        return int(module.layer_idx)
    types = module.config.layer_types
    return max(i for i in range(layers) if types[i] == types[module.layer_idx])


def shared_prefix_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **given: Any,
) -> tuple[Tensor, None]:
    """Attention over a block that all rows share and each row's own block, in one softmax. The shared block is not
    copied.

    query (batch, heads, queries, dim); key, value (batch, kv heads, slots, dim): the row's own. softcap: logits are
    softcap * tanh(logits / softcap). s_aux (heads,): logits of sinks, which take a share of each softmax. What is seen
    comes from `seeing`; without it this is torch's attention under `attention_mask`.
    """
    sight = _SIGHT.get()
    if sight is None:
        plain = ALL_ATTENTION_FUNCTIONS["sdpa"]
        return plain(module, query, key, value, attention_mask, scaling=scaling)[0], None
    first, before, mask = sight.within(*reach(module, given))
    keys = values = None
    if sight.prefix:
        keys, values = (t[:, first:] for t in sight.prefix[layer_of(module, len(sight.prefix))])
    if keys is not None and not keys.shape[1]:
        keys = values = None
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    parts = _Parts(query, key, value, mask, keys, values, before, scale, softcap, s_aux)
    flash = query.device.type == "cpu" and query.shape[2] >= FLASH_FROM
    if flash and softcap is None and key.shape[3] == value.shape[3] and query.dtype == key.dtype:
        return _by_blocks(parts), None
    return _in_one(parts), None


@dataclass(frozen=True)
class _Parts:
    """What one call attends with: the row's own block, and the shared one where there is any."""

    query: Tensor  # (batch, heads, queries, dim)
    key: Tensor  # (batch, kv heads, slots, dim)
    value: Tensor
    mask: Tensor  # (batch, 1, queries, slots), additive
    keys: Tensor | None  # (kv heads, prefix, dim)
    values: Tensor | None
    before: Tensor | None  # (batch, queries, prefix), additive
    scale: float
    softcap: float | None
    sinks: Tensor | None  # (heads,)


def _in_one(p: _Parts) -> Tensor:
    """One softmax over both blocks, (batch, queries, heads, dim)."""
    batch, heads, queries, dim = p.query.shape
    kv = p.key.shape[1]
    group = heads // kv
    shape = (batch, kv, group, queries, -1)
    query = p.query.reshape(batch, kv, group * queries, dim) * p.scale

    def capped(logits: Tensor) -> Tensor:
        return logits if p.softcap is None else p.softcap * torch.tanh(logits / p.softcap)

    logits = [capped((query @ p.key.transpose(2, 3)).view(shape)) + p.mask[:, :, None]]
    if p.keys is not None:
        flat = query.transpose(0, 1).reshape(kv, batch * group * queries, dim)
        far = (flat @ p.keys.transpose(1, 2)).view(kv, batch, group, queries, -1).transpose(0, 1)
        logits.insert(0, capped(far) if p.before is None else capped(far) + p.before[:, None, None])
    if p.sinks is not None:
        logits.append(p.sinks.to(query.dtype).view(1, kv, group, 1, 1).expand(batch, -1, -1, queries, -1))
    weights = torch.softmax(torch.cat(logits, dim=-1), dim=-1, dtype=torch.float32).to(query.dtype)
    shares = [w.reshape(batch, kv, group * queries, -1) for w in weights.split([x.shape[-1] for x in logits], dim=-1)]
    out = shares[0 if p.keys is None else 1] @ p.value
    if p.values is not None:
        flat = shares[0].transpose(0, 1).reshape(kv, batch * group * queries, -1)
        out = (flat @ p.values).view(kv, batch, group * queries, -1).transpose(0, 1) + out
    return out.reshape(batch, heads, queries, -1).transpose(1, 2)


def _by_blocks(p: _Parts) -> Tensor:
    """The same by torch's flash kernel, block by block: two softmaxes merged by their log-sum-exp (Dao et al. 2022)."""
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    batch, heads, queries, dim = p.query.shape
    kv = p.key.shape[1]
    group = heads // kv
    own_keys, own_values = (t.repeat_interleave(group, dim=1) for t in (p.key, p.value))
    out, out_sum = flash(p.query, own_keys, own_values, attn_mask=p.mask, scale=p.scale)
    out_sum = out_sum.view(batch, heads, queries)
    if p.keys is not None and p.values is not None:
        rows = batch * group * queries
        flat = p.query.view(batch, kv, group, queries, dim).transpose(0, 1).reshape(1, kv, rows, dim)
        hidden = None if p.before is None else p.before[:, None].expand(-1, group, -1, -1).reshape(1, 1, rows, -1)
        far, far_sum = flash(flat, p.keys[None], p.values[None], attn_mask=hidden, scale=p.scale)
        far = far.view(kv, batch, group, queries, dim).transpose(0, 1).reshape(batch, heads, queries, dim)
        far_sum = far_sum.view(kv, batch, group, queries).transpose(0, 1).reshape(batch, heads, queries)
        share = torch.sigmoid(far_sum - out_sum)[..., None]
        out, out_sum = torch.lerp(out, far, share.to(out.dtype)), torch.logaddexp(out_sum, far_sum)
    if p.sinks is not None:
        out = out * torch.sigmoid(out_sum - p.sinks.view(1, heads, 1))[..., None].to(out.dtype)
    return out.transpose(1, 2).contiguous()


SHARED = "shared_prefix"

AttentionInterface.register(SHARED, shared_prefix_attention)


class Block(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values (rows, kv heads, slots, dim), allocated at once and filled in place."""

    def __init__(self, keys: Tensor, values: Tensor, length: int = 0):
        super().__init__()
        self.keys, self.values, self.length = keys, values, length
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append these keys and values. Gives all that are filled."""
        end = self.length + key_states.shape[2]
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        """Slots filled."""
        return self.length
