"""A model's own memory of the tokens it has read, whatever its kind, as rows that can be chosen and forked.

It is keys and values in an attention layer, a recurrent state in a state-space layer, both in a hybrid model.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from src.engine.sampling import Tensor

NAMES = ("past_key_values", "cache_params", "state", "past_buckets_states", "mems")  # of a memory in a model's output
At = tuple[Any, ...]  # where a tensor lies in a memory


def takes(model: Any, name: str) -> bool:
    """Whether the model's forward pass has an argument of this name."""
    return name in inspect.signature(model.forward).parameters


def mapped(memory: Any, change: Callable[[At, Tensor], Tensor], at: At = ()) -> Any:
    """A copy of a memory with `change(where, tensor)` in the place of each tensor."""
    if isinstance(memory, torch.Tensor):
        return change(at, memory)
    if isinstance(memory, list | tuple):
        return type(memory)(mapped(part, change, (*at, i)) for i, part in enumerate(memory))
    if isinstance(memory, dict):
        return type(memory)({key: mapped(part, change, (*at, key)) for key, part in memory.items()})
    if isinstance(memory, torch.nn.Module) or not type(memory).__module__.startswith("transformers"):
        return memory
    if hasattr(memory, "to_dict"):  # a configuration
        return memory
    new = copy.copy(memory)
    for name, part in vars(memory).items():
        object.__setattr__(new, name, mapped(part, change, (*at, name)))
    return new


def _shapes(memory: Any) -> dict[At, torch.Size]:
    found: dict[At, torch.Size] = {}

    def note(at: At, tensor: Tensor) -> Tensor:
        found[at] = tensor.shape
        return tensor

    mapped(memory, note)
    return found


class Memory(Protocol):
    """Reads tokens and keeps what was read."""

    def ones(self, rows: int, tokens: int) -> Tensor:
        """The mask of rows without padding."""
        ...

    def read(self, tokens: Sequence[Sequence[int]], memory: Any, mask: Tensor) -> tuple[Tensor, Any]:
        """(logits (rows, vocabulary) behind the last token, memory) after `tokens` (rows, count)."""
        ...

    def select(self, memory: Any, rows: Sequence[int]) -> Any:
        """A copy of the memory with these rows, in this order."""
        ...


@dataclass
class Reader:
    """Runs a decoder token by token on its own memory. It raises ValueError for a model that keeps none.

    masks: whether the model is given a mask. Rows without padding need none, and some architectures misread it.
    rows_in: for each tensor of the memory, the dimension that counts rows; -1 where none does.
    """

    model: Any
    masks: bool = False

    def __post_init__(self) -> None:
        names = ("logits_to_keep", "attention_mask", "position_ids")
        self.last, self.masked, self.placed = (takes(self.model, name) for name in names)
        self.name = ""
        two, three = (_shapes(self.read([(1, 2)] * rows, None, self.ones(rows, 2))[1]) for rows in (2, 3))
        if two.keys() != three.keys():
            raise ValueError("its memory has another form for another number of rows")
        self.rows_in = {at: _differing(two[at], three[at]) for at in two}
        if all(dim < 0 for dim in self.rows_in.values()):
            raise ValueError("it keeps no memory of what it has read")

    def ones(self, rows: int, tokens: int) -> Tensor:
        """The mask of rows without padding."""
        return torch.ones(rows, tokens, dtype=torch.long, device=self.model.device)

    def given(self, mask: Tensor, count: int) -> dict[str, Tensor]:
        """The mask, and the positions of the last `count` tokens, where the model takes them. mask (rows, tokens)."""
        position = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -count:]
        return ({"attention_mask": mask} if self.masks and self.masked else {}) | (
            {"position_ids": position} if self.placed else {}
        )

    def read(self, tokens: Sequence[Sequence[int]], memory: Any, mask: Tensor) -> tuple[Tensor, Any]:
        """(logits (rows, vocabulary) behind the last token, memory) after `tokens` (rows, count).

        mask (rows, tokens read before and now): 0 for padding. Raises ValueError where the model keeps no memory.
        """
        ids = torch.tensor([list(row) for row in tokens], device=self.model.device)
        keep = {"logits_to_keep": 1} if self.last else {}
        before = {} if memory is None else {self.name: memory}
        out = self.model(input_ids=ids, use_cache=True, **before, **keep, **self.given(mask, ids.shape[1]))
        self.name = self.name or next((name for name in NAMES if out.get(name) is not None), "")
        if not self.name:
            raise ValueError("it keeps no memory of what it has read")
        return out.logits[:, -1], out[self.name]

    def select(self, memory: Any, rows: Sequence[int]) -> Any:
        """A copy of the memory with these rows, in this order. A row that is named twice forks."""

        def chosen(at: At, tensor: Tensor) -> Tensor:
            dim = self.rows_in[at]  # a tensor that was not there before could be of any form
            if dim < 0:
                return tensor.clone()
            return tensor.index_select(dim, torch.tensor(rows, device=tensor.device))

        return mapped(memory, chosen)


@dataclass
class RowReader:
    """The same, each row in a forward pass of its own, for a model whose memory mixes up the rows of a batch."""

    model: Any

    def __post_init__(self) -> None:
        self.reader = Reader(self.model)

    def ones(self, rows: int, tokens: int) -> Tensor:
        """The mask of rows without padding."""
        return self.reader.ones(rows, tokens)

    def read(self, tokens: Sequence[Sequence[int]], memory: Any, mask: Tensor) -> tuple[Tensor, Any]:
        """As Reader.read; a memory is a list of one for each row."""
        each = [self.reader.read([row], memory and memory[b], mask[b : b + 1]) for b, row in enumerate(tokens)]
        return torch.cat([logits for logits, _ in each]), [kept for _, kept in each]

    def select(self, memory: Any, rows: Sequence[int]) -> Any:
        """As Reader.select."""
        return [self.reader.select(memory[row], [0]) for row in rows]


def _differing(a: torch.Size, b: torch.Size) -> int:
    """The one dimension in which two shapes differ, -1 where there is none. Raises ValueError where there are more."""
    if len(a) != len(b) or sum(x != y for x, y in zip(a, b, strict=True)) > 1:
        raise ValueError("its memory mixes rows with something else")
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), -1)
