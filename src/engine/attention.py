"""Attention over a prefix that all rows share and each row's own block, and the cache that holds that block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.cache_utils import DynamicLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from src.engine.sampling import Tensor

FLASH_FROM = 16  # queries a row, from which torch's flash kernel is faster on a CPU (docs/log.md)


def shared_prefix_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    prefix: Sequence[tuple[Tensor, Tensor]] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention over a block that all rows share and each row's own block, in one softmax. The shared block is not
    copied.

    query (batch, heads, queries, dim); key, value (batch, kv heads, slots, dim): the row's own; attention_mask
    (batch, 1, queries, slots), additive; prefix: by layer, keys and values (kv heads, prefix, dim) every query sees.
    """
    if prefix is None:
        plain = ALL_ATTENTION_FUNCTIONS["sdpa"]
        return plain(module, query, key, value, attention_mask, scaling=scaling)[0], None
    batch, heads, queries, dim = query.shape
    kv = key.shape[1]
    group = heads // kv
    keys, values = prefix[module.layer_idx]
    if query.device.type == "cpu" and queries >= FLASH_FROM:
        return _merged_attention(query, key, value, attention_mask, keys, values, scaling), None
    query = query.reshape(batch, kv, group * queries, dim) * (dim**-0.5 if scaling is None else scaling)
    flat = query.transpose(0, 1).reshape(kv, batch * group * queries, dim)
    seen = (flat @ keys.transpose(1, 2)).view(kv, batch, group * queries, -1).transpose(0, 1)
    own = (query @ key.transpose(2, 3)).view(batch, kv, group, queries, -1) + attention_mask[:, :, None]
    both = torch.cat([seen, own.view(batch, kv, group * queries, -1)], dim=-1)
    weights = torch.softmax(both, dim=-1, dtype=torch.float32).to(query.dtype)
    of_prefix, of_own = weights.split([keys.shape[1], key.shape[2]], dim=-1)
    far = of_prefix.transpose(0, 1).reshape(kv, batch * group * queries, -1) @ values
    out = far.view(kv, batch, group * queries, dim).transpose(0, 1) + of_own @ value
    return out.reshape(batch, heads, queries, dim).transpose(1, 2), None


def _merged_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, keys: Tensor, values: Tensor, scaling: float | None
) -> Tensor:
    """The same by torch's flash kernel, block by block: two softmaxes merged by their log-sum-exp (Dao et al. 2022)."""
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    batch, heads, queries, dim = query.shape
    kv = key.shape[1]
    group = heads // kv
    flat = query.view(batch, kv, group, queries, dim).transpose(0, 1).reshape(1, kv, batch * group * queries, dim)
    far, far_sum = flash(flat, keys[None], values[None], scale=scaling)
    far = far.view(kv, batch, group, queries, dim).transpose(0, 1).reshape(batch, heads, queries, dim)
    far_sum = far_sum.view(kv, batch, group, queries).transpose(0, 1).reshape(batch, heads, queries)
    key, value = (t.repeat_interleave(group, dim=1) for t in (key, value))
    near, near_sum = flash(query, key, value, attn_mask=mask, scale=scaling)
    share = torch.sigmoid(far_sum - near_sum.view(batch, heads, queries))[..., None]
    return torch.lerp(near, far, share).transpose(1, 2).contiguous()


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
