"""What a server answers to /v1/completions: JSON that is not believed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from src.engine.echo import TokenIds
from src.engine.job import Completion


class Unreadable(ValueError):
    """What is no completion, and may be one when it is asked for again."""


class Refused(Exception):
    """What is no completion, and will be none the next time."""


UNREADABLE = (ValueError, RecursionError)  # of json.loads, and Unreadable
ENDS = {"stop": "eos", "eos": "eos", "eos_token": "eos", "stop_sequence": "eos", "length": "length"}
PASSING = (None, "error", "abort", "aborted", "cancelled", "canceled", "timeout")  # finish reasons of a call cut short
MANY = 10**9  # tokens that no answer has
BEFORE_ECHO = 32  # characters of special tokens that may stand before an echo
OTHER_TOKENS = (
    "It cuts prompts, puts a special token or a chat template around them, or has another tokenizer (docs/api.md, What "
    "to switch off)"
)


def used_of(reply: Any) -> tuple[int, int] | None:
    """(prompt tokens, completion tokens) that an answer is billed for. None where it does not say, or says 0 read."""
    usage = reply.get("usage") if isinstance(reply, dict) else None
    numbers = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")] if isinstance(usage, dict) else []
    counts = [number for number in numbers if type(number) is int and 0 <= number < MANY]
    return (counts[0], counts[1]) if len(counts) == 2 and counts[0] else None


def choices_of(reply: Any) -> list[Any]:
    """The texts of an answer. Raises Unreadable where it has none."""
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, dict) for choice in choices):
        said = reply.get("error") or reply.get("message") if isinstance(reply, dict) else None
        raise Unreadable(f"it holds no choices{f', but {said}' if said else ''}")
    return choices


def completion_of(reply: Any, prompt: str, budget: int, leading: str) -> Completion:
    """The one completion of an answer. Raises Unreadable or Refused where it holds none, or not what was asked for."""
    choices = choices_of(reply)
    if len(choices) > 1:
        raise Refused(f"{len(choices)} completions of one prompt")
    text, finish = choices[0].get("text"), choices[0].get("finish_reason")
    if finish in PASSING:
        raise Unreadable(f"a text that did not end (finish_reason {finish})")
    if not isinstance(finish, str) or finish not in ENDS:
        raise Refused(f"finish_reason {finish}")
    if not isinstance(text, str):
        raise Unreadable("the completion has no text")
    if prompt and prompt in text[: len(prompt) + BEFORE_ECHO]:
        raise Refused("the completion begins with the whole prompt, as if echo had been asked for")
    _, n_tokens = used_of(reply) or (0, 0)
    if n_tokens > budget:
        raise Refused(f"it has {n_tokens} tokens where {budget} at most were asked for")
    if ENDS[finish] == "length" and 0 < n_tokens < budget:
        raise Refused(f"it was cut at {n_tokens} tokens and not at the {budget} that were asked for")
    return Completion(text.removeprefix(leading), n_tokens or None, ENDS[finish])


def refuse_other_tokens(reply: Any, texts: Sequence[str], ids: TokenIds) -> None:
    """Raises Refused where a server says that it read other tokens than the model's own tokenizer makes of the texts.

    vLLM names the tokens (return_token_ids). Any server counts them in its usage: llama.cpp's counts those of a list's
    first text alone. One that does neither is not checked.
    """
    own = [list(ids(text)) for text in texts]
    read, _ = used_of(reply) or (None, None)
    expected = sum(map(len, own))
    if read not in (None, expected, len(own[0])):
        raise Refused(
            f"it read {read} tokens where the model's own tokenizer makes {expected} of the prompt. {OTHER_TOKENS}"
        )
    named = [choice.get("prompt_token_ids") for choice in choices_of(reply)]
    if all(isinstance(each, list) for each in named) and len(named) == len(own) and sorted(named) != sorted(own):
        raise Refused(f"it read other tokens than the model's own tokenizer makes of the prompt. {OTHER_TOKENS}")
