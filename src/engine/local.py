"""A Hugging Face checkpoint in a local folder. Texts and keys need no weights. choice.py, loaded on demand, does."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.base.errors import UserError
from src.base.grid import TOKEN_BUDGET
from src.base.schema import Compat, Generation, Model
from src.engine.job import Completion, Done, Draw, Job, Likelihood, Proof, Request, Result
from src.question.prompts import Prompt
from src.source.weights import steady
from src.source.whole import WHOLE, listed

if TYPE_CHECKING:
    from src.engine.choice import Choice


NUMERICS = 1  # raised by hand, and only when golden completions change, because that voids every stored result
MENDED = 2  # of the models that an older engine may have answered for wrongly (docs/log.md)
SOUND = (
    "GPT2Config",
    "GPTJConfig",
    "FalconConfig",
    "LlamaConfig",
    "GPTNeoXConfig",
    "T5Config",
)  # it was right for these
SOUND_ROTARY = ("default", "linear", "llama3", "yarn")
GROWING = ("dynamic", "linear")  # rotary embeddings that read beyond the window that the configuration names
NEAR_TIE = 1e-4  # logits
WINDOWS = (
    "max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "max_seq_length", "seq_length",
    "n_ctx",
)  # fmt: skip
"""What configurations call the tokens that a decoder takes."""
BEHIND_PADDING = ("roberta", "camembert", "xmod", "data2vec-text")
"""Words in the model types whose positions begin behind the number of the padding token."""


def digest(content: Any) -> str:
    """sha256 hex of canonical JSON."""
    return sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Turns what a damaged checkpoint, or one with code of its own, raises at loading into a UserError."""
    from pickle import UnpicklingError

    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except (
        OSError, ValueError, LookupError, ImportError, TypeError, AttributeError, ArithmeticError, AssertionError,
        EOFError, RuntimeError, SafetensorError, StrictDataclassError, UnpicklingError,
    ) as error:  # fmt: skip
        from src.engine.loading import out_of_memory

        if out_of_memory(error):
            raise
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{folder} needs code that comes with the checkpoint. Read it; where you trust it: "
                "model.trust_remote_code=true"
            ) from None
        lines = str(error).split("\n") if str(error).strip() else [type(error).__name__]
        why = " ".join(lines[: 1 + lines[0].endswith(":")]).strip().rstrip(".")  # a heading ends in a colon
        raise UserError(f"{folder} cannot be loaded: {why}. {WHOLE}") from None


def sized(config: Any, *names: str) -> int | None:
    """The first of these sizes that a configuration has. Some have 0 or -1 for none."""
    found = (getattr(config, name, None) for name in names)
    return next((size for size in found if type(size) is int and size > 0), None)


def rotary(config: Any) -> list[dict[str, Any]]:
    """The settings of a decoder's rotary embeddings: one, or one for each type of layer."""
    given = getattr(config, "rope_parameters", None) or {}
    return [given] if "rope_type" in given else [each for each in given.values() if isinstance(each, dict)]


def stretch(config: Any) -> float:
    """How many times its window a decoder reads, because its rotary embedding grows with the prompt."""
    growing = [each for each in rotary(config) if each.get("rope_type") in GROWING]
    return max((float(each.get("factor") or 1) for each in growing), default=1.0)


class LocalEngine:
    """An Engine on a folder that `save_pretrained` wrote.

    identity: names weights and tokenizer (a revision or sha256). It is part of every key.
    model: its dtype, `leading`, device_map and trust_remote_code count here. The last two are part of no key.
    compat: as published, `leading` is stripped as a set of letters (defect 2). The token budget is that of the option
        longest in characters, tokenised with special tokens (defect 4). The published code took the maximum over a
        batch of 16, which the example's own approximates. The prompt is cut off by string replacement (defect 8).
    token_budget: tokens a batch may hold in memory, prompts and completions together.

    A prompt longer than the model's window loses tokens at its beginning, behind what the tokenizer puts first.
    """

    def __init__(
        self,
        folder: Path,
        identity: str,
        model: Model,
        generation: Generation,
        compat: Compat,
        token_budget: int = TOKEN_BUDGET,
    ):
        self.folder, self.identity, self.model = folder, identity, model
        self.generation, self.compat, self.token_budget = generation, compat, token_budget
        self.encode = lru_cache(maxsize=8192)(self._encode)
        if not (self.folder / "config.json").exists():
            raise UserError(f"{self.folder} holds no config.json, so no checkpoint. {WHOLE}")

    @cached_property
    def tokenizer(self) -> Any:
        """The folder's tokenizer."""
        from transformers import AutoTokenizer

        options = {"trust_remote_code": self.model.trust_remote_code}
        with readable(self.folder):
            found = AutoTokenizer.from_pretrained(self.folder, **options)
            if found.init_kwargs.get("sp_model_kwargs"):  # of sentencepiece: it may draw its pieces at random
                found = AutoTokenizer.from_pretrained(self.folder, **options, sp_model_kwargs={})
        if found.is_fast:
            steady(found.backend_tokenizer)
        special = {*found.all_special_ids, *(i for i, each in found.added_tokens_decoder.items() if each.special)}
        beyond = [t for t, i in found.get_vocab().items() if i >= (self.vocabulary or i + 1) and i not in special]
        if beyond:  # a special one may stand there for padding, which no prompt has
            raise UserError(
                f"{self.folder}: {len(beyond)} tokens of the tokenizer are beyond the {self.vocabulary} of config.json "
                f"({listed(map(repr, beyond))}). Put the model's own tokenizer there"
            )
        return found

    @cached_property
    def config(self) -> Any:
        """The folder's model configuration."""
        from transformers import AutoConfig

        with readable(self.folder):
            return AutoConfig.from_pretrained(self.folder, trust_remote_code=self.model.trust_remote_code)

    @cached_property
    def vocabulary(self) -> int | None:
        """Tokens that the model has an embedding for. None where the configuration does not say."""
        config = self.config
        reads = getattr(config, "encoder", None) or config if config.is_encoder_decoder else None
        return sized(reads or config.get_text_config(decoder=True), "vocab_size")

    @cached_property
    def affixes(self) -> tuple[int, int]:
        """Special tokens that the tokenizer puts (before a text, behind it)."""
        texts = (text for text in ("a", "0", "я", "中") if self._tokenized(text, False))  # it may know few letters
        text = next(texts, "a")
        full, bare = self._tokenized(text, True), self._tokenized(text, False)
        for begin in range(len(full) - len(bare) + 1):
            if bare and full[begin : begin + len(bare)] == bare:
                return begin, len(full) - len(bare) - begin
        raise UserError(f"{self.folder}: special tokens change how the tokenizer reads a text. Mend tokenizer.json")

    def _encode(self, text: str, special: bool = True) -> tuple[int, ...]:
        """Token ids. A decoder's text is to go on, so what the tokenizer would close it with is left out."""
        ids = self._tokenized(text, special)
        begin, end = self.affixes if special else (0, 0)
        if end and not self.config.is_encoder_decoder:
            ids = ids[: begin + len(self._tokenized(text, False))]
        if not ids and special:
            ids = [i for i in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id) if i is not None][:1]
        if self.vocabulary and ids and max(ids) >= self.vocabulary:
            token = self.tokenizer.convert_ids_to_tokens(max(ids))
            raise UserError(
                f"{self.folder}: the tokenizer makes token {max(ids)} ({token!r}) of a prompt, and the model has "
                f"{self.vocabulary}. Put the model's own tokenizer there"
            )
        return tuple(ids)

    def _tokenized(self, text: str, special: bool) -> list[int]:
        options = {"padding": False, "truncation": False, "verbose": False}
        return list(self.tokenizer(text, add_special_tokens=special, **options)["input_ids"])

    def budget(self, prompt: Prompt) -> int:
        """Tokens a completion may have: those of the longest option (without any: the answer) + extra_tokens."""
        options = prompt.options or (prompt.answer,)
        if self.compat.batch_budget:
            return len(self.encode(max(options, key=len))) + self.generation.extra_tokens
        return max(len(self.encode(option, False)) for option in options) + self.generation.extra_tokens

    def job(self, prompt: Prompt, seeds: tuple[int, ...], likelihood: bool) -> Job:
        """The prompt in token ids, cut to the model's window. Prefix and text are tokenised as one string."""
        ids, budget, scored = self.ids(prompt), self.budget(prompt), self.scored(prompt) if likelihood else ()
        return Job(ids, seeds, budget, scored)

    def ids(self, prompt: Prompt) -> tuple[int, ...]:
        """Token ids of the prompt within the window."""
        return self._within(self.encode(prompt.prefix + prompt.text), self.cut(prompt))

    def scored(self, prompt: Prompt) -> tuple[tuple[int, ...], ...]:
        """Token ids of each continuation, for a decoder behind the prompt and for an encoder-decoder alone."""
        if self.config.is_encoder_decoder:
            scored = tuple(self.encode(c, False) for c in prompt.continuations)
            predicted = all(scored)
        else:
            text, ids = prompt.prefix + prompt.text, self.ids(prompt)
            scored = tuple(self._within(self.encode(text + c), self.cut(prompt)) for c in prompt.continuations)
            predicted = all(full[:1] == ids[:1] for full in scored)
        if not predicted:
            raise UserError(
                f"{prompt.id}: an option has no token of its own, or merges with the whole prompt in the tokens of "
                f"{self.model.name}, so nothing predicts it. Leave the likelihoods out: generation.likelihood=false"
            )
        return scored

    def _within(self, ids: tuple[int, ...], lost: int) -> tuple[int, ...]:
        begin = self.affixes[0] if lost else 0
        return (*ids[:begin], *ids[begin + lost :])

    @cached_property
    def windows(self) -> tuple[int | None, int | None]:
        """Tokens that the model (reads, writes) at most. A decoder's window holds both. None: positions do not end."""
        config = self.config
        if not config.is_encoder_decoder:
            text = config.get_text_config(decoder=True)
            window = sized(text, *WINDOWS)
            if window:
                window = int(window * stretch(text))
            if window and any(word in str(text.model_type) for word in BEHIND_PADDING):
                window -= text.pad_token_id + 1
            return window, window
        if hasattr(config, "relative_attention_num_buckets"):  # the T5 family
            return None, None
        encoder, decoder = (getattr(config, side, None) or config for side in ("encoder", "decoder"))
        encoder = getattr(encoder, "text_config", None) or encoder
        own = ("max_position_embeddings", "n_positions")
        return sized(encoder, "max_encoder_position_embeddings", *own), sized(
            decoder, "max_decoder_position_embeddings", *own
        )

    def cut(self, prompt: Prompt) -> int:
        """Tokens that a prompt loses at its beginning, because the window does not hold it with what follows.

        Raises UserError where what follows alone does not fit.
        """
        (window, written), text = self.windows, prompt.prefix + prompt.text
        length, follows = len(self.encode(text)), self.budget(prompt)
        if self.config.is_encoder_decoder:
            follows = max([follows, *(len(self.encode(c, False)) for c in prompt.continuations)])
            lost, kept = length - (window or length), sum(self.affixes)
            fits = not written or follows <= written
        else:
            follows = max([length + follows, *(len(self.encode(text + c)) for c in prompt.continuations)]) - length
            lost, kept = length + follows - (window or length + follows), self.affixes[0]
            fits = True
        if not fits or lost >= max(1, length - kept):
            raise UserError(
                f"{prompt.id}: {follows} tokens follow the prompt of {length}, and {self.model.name} takes "
                f"{written or window} in all. Leave the task out (model.tasks), or take a model with a longer window"
            )
        return max(0, lost)

    def say_cut(self, requests: Sequence[Request]) -> None:
        """Warns of the prompts of a cell that lose tokens."""
        lost = [count for count in (self.cut(request.prompt) for request in requests) if count]
        if lost:
            text = (
                f"{len(lost)} of {len(requests)} prompts are longer than the window of {self.model.name} "
                f"({self.windows[0]} tokens): they lose up to {max(lost)} tokens at their beginning."
            )
            warnings.warn_explicit(text, UserWarning, requests[0].prompt.id, 1)  # for each cell, not for each text

    def completion_key(self, prompt: Prompt, seed: int) -> str:
        """Content address of one completion. Greedy ones do not depend on the seed."""
        sampled = self.generation.temperature > 0
        return digest(
            {
                **self._common(prompt),
                "kind": "completion",
                "budget": self.budget(prompt),
                "temperature": self.generation.temperature,
                "top_k": self.generation.top_k if sampled else None,
                "seed": seed if sampled else None,
                "text": [self.model.leading, self.compat.strip_letters, self.compat.prompt_by_text],
            }
        )

    def likelihood_key(self, prompt: Prompt) -> str:
        """Content address of the log-likelihoods of a prompt's continuations."""
        return digest({**self._common(prompt), "kind": "likelihood", "scored": self.scored(prompt)})

    @cached_property
    def numerics(self) -> int:
        """A number of every key. It is another one where a stored answer may be of an engine that was wrong.

        An older engine believed a folder of the user's own, float16 that overflowed, and architectures that it had
        tried on few tokens. The answers of pinned float32 weights of the architectures it was made for stay.
        """
        config = self.config
        rope = all(each.get("rope_type", "default") in SOUND_ROTARY for each in rotary(config))
        pinned = not self.model.path and self.model.dtype == "float32"
        return NUMERICS if pinned and rope and type(config).__name__ in SOUND else MENDED

    def _common(self, prompt: Prompt) -> dict[str, Any]:
        return {
            "identity": self.identity,
            "dtype": self.model.dtype,
            "numerics": self.numerics,
            "ids": self.ids(prompt),
        }

    def describe(self) -> dict[str, str | int | float]:
        """Identity of model and engine; no machine facts."""
        return {
            "engine": "local",
            "identity": self.identity,
            "dtype": self.model.dtype,
            "numerics": self.numerics,
            "temperature": self.generation.temperature,
            "top_k": self.generation.top_k,
            "extra_tokens": self.generation.extra_tokens,
            "leading": self.model.leading,
            "strip_letters": self.compat.strip_letters,
            "batch_budget": self.compat.batch_budget,
            "prompt_by_text": self.compat.prompt_by_text,
        }

    @cached_property
    def choice(self) -> Choice:
        """The model, loaded when it is first asked, and the way it is run."""
        from src.engine.choice import Choice
        from src.engine.loading import load
        from src.engine.sampling import Sampler

        def loaded() -> Any:
            with readable(self.folder):
                return load(str(self.folder), self.model.dtype, self.model.trust_remote_code, self.model.device_map)

        return Choice(loaded, Sampler(self.generation.temperature, self.generation.top_k), self.windows[0])

    @property
    def tokens(self) -> int:
        """Tokens of prompts, options and completions computed so far, without padding. 0 before weights are loaded."""
        return self.choice.tokens if "choice" in self.__dict__ else 0

    @property
    def proof(self) -> Proof | None:
        """What shows that the way in use is right; None before weights are loaded."""
        return self.choice.proof if "choice" in self.__dict__ else None

    def run(self, requests: Sequence[Request], among: Sequence[Request] = ()) -> Iterator[list[Result]]:
        """Results batch by batch, longest prompts first.

        Raises UserError where one prompt does not fit in memory, logits are no numbers, or no way of running the model
        can be proven.
        """
        from src.engine.batches import batches
        from src.engine.sampling import NotFinite

        self.say_cut(among or requests)
        jobs, every = ([self.job(r.prompt, r.seeds, r.likelihood) for r in some] for some in (requests, among))
        if not jobs:
            return
        try:
            way = self.choice.ready([*every, *jobs])
            for batch in batches(way, jobs, self.token_budget, every):
                yield [self._result(requests[i], jobs[i], done) for i, done in batch]
        except NotFinite:
            raise UserError(
                f"{self.model.name} gives logits that are NaN or infinite in {self.model.dtype}: no answer was kept of "
                "them. Take a dtype of wider range: model.dtype=bfloat16 or model.dtype=float32"
            ) from None

    def _result(self, request: Request, job: Job, done: Done) -> Result:
        completions = {seed: self._completion(job, draw) for seed, draw in done.draws.items()}
        scores = done.scores if request.likelihood else None
        likelihood = None if scores is None else Likelihood(tuple(s for s, _ in scores), tuple(n for _, n in scores))
        return Result(request.prompt.id, completions, likelihood)

    def _completion(self, job: Job, draw: Draw) -> Completion:
        near = draw.margin if draw.margin < NEAR_TIE else None
        return Completion(self.text(job.ids, draw.tokens), len(draw.tokens), draw.finish, near)

    def text(self, prompt: Sequence[int], tokens: Sequence[int]) -> str:
        """The completion's text, without end-of-sequence and what the decoder puts before it."""
        if self.compat.prompt_by_text and not self.config.is_encoder_decoder:
            whole = self._decoded([*prompt, *tokens])
            text = whole.replace(self._decoded(prompt), "")
        else:
            text = self._decoded(tokens)
        leading = self.model.leading
        return text.lstrip(leading) if self.compat.strip_letters and leading else text.removeprefix(leading)

    def _decoded(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))
