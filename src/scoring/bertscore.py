"""BERTScore: the option nearest to a completion, by an encoder that scores each text alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.base.errors import UserError
from src.question.prompts import Prompt
from src.scoring.match import Rules, compared, target

LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # no tokenizer takes one


@dataclass(frozen=True)
class Nearest:
    """What BERTScore makes of a completion."""

    picked: int  # index of the nearest option
    f1_target: float  # F1 against the gold answer


class BertScorer:
    """F1 of bert-score 0.3.13 (no idf, no rescaling): its matching, with an encoder that works under transformers 5.

    In transformers 5 an empty text raises. A byte-level tokenizer loses the space that bert-score puts before a text,
    which changes the first token. Both are mended here. bert-score also pads a batch with similarities of 0, which beat
    negative ones, so that its scores depend on the batch (by .01 with a small encoder). Here each distinct token
    sequence is embedded once, beside others of its length, and matched alone. That equals bert-score at batch size 1.
    """

    def __init__(self, folder: Path, num_layers: int, batch: int = 64) -> None:
        """Load layers 1 to `num_layers` of the encoder (BERT, RoBERTa) in `folder`. Raises UserError if there is none.

        Not by bert-score's own loader, which takes every path with "t5" in it for a T5.
        """
        import torch
        from transformers import AutoModel, AutoTokenizer, GPT2Tokenizer, RobertaTokenizer
        from transformers.utils.logging import disable_progress_bar

        if not (folder / "config.json").is_file():
            raise UserError(f"No encoder for BERTScore in {folder}. Fetch it (`dvc repro`), or name another scorer.")
        disable_progress_bar()
        model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval()
        if not 0 < num_layers <= len(model.encoder.layer):
            raise UserError(f"num_layers={num_layers}: the encoder in {folder} has {len(model.encoder.layer)} layers.")
        model.encoder.layer = model.encoder.layer[:num_layers]
        self.model = model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.gap = " " if isinstance(self.tokenizer, GPT2Tokenizer | RobertaTokenizer) else ""
        self.max_length = min(self.tokenizer.model_max_length, model.config.max_position_embeddings)
        self.batch = batch

    def token_ids(self, text: str) -> tuple[int, ...]:
        """Token ids with special tokens; a blank text has nothing else. A lone surrogate counts as U+FFFD."""
        text = LONE_SURROGATE.sub("\ufffd", text).strip()
        text = self.gap + text if text else ""
        return tuple(self.tokenizer.encode(text, truncation=True, max_length=self.max_length))

    def embed(self, sequences: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], Any]:
        """Hidden states (tokens, dimension) of each distinct sequence of token ids."""
        import torch

        states: dict[tuple[int, ...], Any] = {}
        with torch.inference_mode():
            for rows in batches(sorted(set(sequences), key=lambda ids: (len(ids), ids)), self.batch):
                hidden = self.model(torch.tensor(rows, device=self.model.device))[0].cpu()
                states.update(zip(rows, hidden, strict=True))
        return states

    def f1(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """F1 of each (candidate, reference), shape (pairs,). 0 where either is blank."""
        ids = {text: self.token_ids(text) for pair in pairs for text in pair}
        states = self.embed(ids.values())
        special = {self.tokenizer.cls_token_id, self.tokenizer.sep_token_id}
        weights = {row: tuple(float(token not in special) for token in row) for row in states}
        score = {
            (a, b): matched_f1(states[a], states[b], weights[a], weights[b])
            for a, b in dict.fromkeys((ids[a], ids[b]) for a, b in pairs)
        }
        f1: np.ndarray = np.array([score[ids[a], ids[b]] for a, b in pairs], dtype=float)
        return f1


def batches(rows: Sequence[tuple[int, ...]], size: int) -> list[list[tuple[int, ...]]]:
    """Runs of rows of one length, at most `size` each. Rows come sorted by length."""
    runs: list[list[tuple[int, ...]]] = []
    for row in rows:
        if not runs or len(runs[-1]) == size or len(runs[-1][0]) != len(row):
            runs.append([])
        runs[-1].append(row)
    return runs


def matched_f1(candidate: Any, reference: Any, weight: Sequence[float], reference_weight: Sequence[float]) -> float:
    """F1 of bert-score's greedy matching (Zhang et al., 2020). Special tokens can be matched but weigh 0.

    candidate, reference: tensors (tokens, dimension); the weights: one a token.
    """
    import torch
    from bert_score.utils import greedy_cos_idf

    if not (any(weight) and any(reference_weight)):
        return 0.0  # what bert-score makes of an empty text, without its warning
    stacks = [
        (states[None].clone(), torch.ones(1, len(states)), torch.tensor([weights]))  # it divides in place
        for states, weights in ((reference, reference_weight), (candidate, weight))
    ]
    return float(greedy_cos_idf(*stacks[0], *stacks[1])[2])


def bertscore(completions: Sequence[str], prompts: Sequence[Prompt], bert: BertScorer, rules: Rules) -> list[Nearest]:
    """The option nearest to each completion (of equals the first), and the completion's F1 to the gold answer.

    Quoted options against the raw completion. prompts: one to each completion; each has options.
    """
    pairs: list[tuple[str, str]] = []
    starts: list[int] = []
    for text, prompt in zip(completions, prompts, strict=True):
        starts.append(len(pairs))
        pairs += [(text, f'"{option}"') for option in (*compared(prompt, rules), target(prompt))]
    return [
        Nearest(int(np.argmax(f1[:-1])), float(f1[-1]))
        for f1 in np.split(bert.f1(pairs), starts[1:])
        if len(f1)  # no completions: one empty part
    ]
