"""Encoder-decoder models: a prompt is encoded once for all its seeds and options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, EncoderDecoderCache

from src.engine.head import States
from src.engine.job import Done, Ids, Job
from src.engine.loading import pass_tokens
from src.engine.sampling import Sampler, Tensor, decode, finite


@dataclass
class EncoderDecoderPaths:
    """Rows of an encoder-decoder. encoded (rows, prompt, dim), mask (rows, prompt)."""

    model: Any
    encoded: Tensor
    mask: Tensor
    cache: Any

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows."""
        index = torch.tensor(rows, device=self.mask.device)
        self.encoded, self.mask = self.encoded[index], self.mask[index]
        for layer in (*self.cache.self_attention_cache.layers, *self.cache.cross_attention_cache.layers):
            layer.batch_select_indices(index)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (rows, queries, vocabulary) of tokens behind what each row has."""
        return self.model(
            encoder_outputs=States(last_hidden_state=self.encoded),
            attention_mask=self.mask,
            decoder_input_ids=ids,
            past_key_values=self.cache,
            use_cache=True,
        ).logits

    def walked(self, nodes: Sequence[Ids]) -> None:
        """Never called: options are no tree here."""

    def advance(self, tokens: Sequence[int]) -> Tensor:
        """Append a token to each row."""
        return self.forward(torch.tensor(tokens, device=self.mask.device)[:, None])[:, -1]

    def fresh(self, rows: Sequence[int]) -> EncoderDecoderPaths:
        """Empty rows that reuse the cross-attention keys and values of these."""
        index = torch.tensor(rows, device=self.mask.device)
        cross = DynamicCache()
        for i, layer in enumerate(self.cache.cross_attention_cache.layers):
            cross.update(layer.keys[index], layer.values[index], i)
        return EncoderDecoderPaths(
            self.model, self.encoded[index], self.mask[index], EncoderDecoderCache(DynamicCache(), cross)
        )


@dataclass
class EncoderDecoder:
    """An encoder-decoder, which encodes a prompt once for all its seeds and options.

    Options are rows and not a tree, because relative positions count slots. End-of-sequence is not scored.
    """

    model: Any
    sampler: Sampler
    ends: frozenset[int]
    tokens: int = 0
    together: bool = False

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Prompts share nothing, because an encoder reads each as a whole."""

    def cost(self, job: Job) -> int:
        """Tokens a job keeps in memory."""
        paths = len(job.seeds) if self.sampler.temperature else 1
        return (len(job.ids) + job.budget) * max(1, paths)

    def length(self, job: Job) -> int:
        """Tokens of the prompt."""
        return len(job.ids)

    def run(self, jobs: Sequence[Job]) -> list[Done]:
        """One batch."""
        encoded, mask = self.encode([job.ids for job in jobs])
        paths = EncoderDecoderPaths(self.model, encoded, mask, EncoderDecoderCache(DynamicCache(), DynamicCache()))
        logits = paths.advance([self.start] * len(jobs))
        scores = self.scores(paths, jobs)
        draws, computed = decode(paths, logits, jobs, self.sampler, self.ends)
        self.tokens += sum(len(job.ids) for job in jobs) + len(jobs) + computed
        return [Done(d, s) for d, s in zip(draws, scores, strict=True)]

    @property
    def start(self) -> int:
        """The token a decoder begins with."""
        return start_of(self.model)

    def encode(self, prompts: Sequence[Ids]) -> tuple[Tensor, Tensor]:
        """Encoder states (prompts, longest, dim) and their mask (prompts, longest), right-padded."""
        width, parts = max(map(len, prompts)), []
        ids, mask = _right_padded(prompts, self.model.device)
        step = len(prompts) if self.together else max(1, pass_tokens(self.model) // width)
        for lo in range(0, len(prompts), step):
            part = self.model.get_encoder()(input_ids=ids[lo : lo + step], attention_mask=mask[lo : lo + step])
            parts.append(part.last_hidden_state)
        return torch.cat(parts), mask

    def scores(self, paths: EncoderDecoderPaths, jobs: Sequence[Job]) -> list[list[tuple[float, int]]]:
        """(log-probability, tokens) of each job's options."""
        flat = [(b, option) for b, job in enumerate(jobs) for option in job.scored]
        sums: list[float] = []
        for lo in range(0, len(flat), len(jobs)):
            part = flat[lo : lo + len(jobs)]
            ids, mask = _right_padded([(self.start, *option) for _, option in part], self.model.device)
            logits = paths.fresh([b for b, _ in part]).forward(ids[:, :-1]).float()
            logprobs = torch.log_softmax(logits, dim=-1).gather(-1, ids[:, 1:, None])[..., 0]
            sums += map(finite, logprobs.double().masked_fill(mask[:, 1:] == 0, 0.0).sum(dim=1).tolist())
        self.tokens += sum(len(option) for _, option in flat)
        rest = iter(sums)
        return [[(next(rest), len(option)) for option in job.scored] for job in jobs]


def start_of(model: Any) -> int:
    """The token a decoder begins with. Raises ValueError where the checkpoint names none."""
    own = model.generation_config
    start = own.bos_token_id if own.decoder_start_token_id is None else own.decoder_start_token_id  # as `generate` does
    if start is None:
        raise ValueError("it names no token to begin with (decoder_start_token_id)")
    return int(start)


def _right_padded(rows: Sequence[Ids], device: Any) -> tuple[Tensor, Tensor]:
    """(ids, mask), each (rows, longest)."""
    width = max(map(len, rows))
    ids = torch.tensor([[*r, *[0] * (width - len(r))] for r in rows], device=device)
    mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows], device=device)
    return ids, mask
