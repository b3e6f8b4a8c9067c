"""Log-likelihoods from a server's echo, only where the echo proves which log-probability belongs to which text.

The echoed tokens must rebuild prompt + option byte for byte. What the server says of offsets is not read, because
servers count them in characters or bytes, from 0 or 1, from the prompt's or the completion's beginning. Options share
their prompt, so what they share must have the same log-probabilities, and what differs must not add up to more than 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from src.engine.job import Likelihood

LEADING = 2  # special tokens that may stand before the text
SPECIAL = re.compile(r"(?:<[^\s<>]+>|\[[^\s\[\]]+\])?")  # <s>, <|endoftext|>, [CLS]; "" where it is shown as nothing
GENERATED = 1  # tokens that may follow the text, because max_tokens is 1
ROUNDING = 1e-4  # nats above 0 that are still a probability of 1
PLACEHOLDER = -9999.0  # nats; servers write it, or less, for what they do not know
ID = re.compile(r"token_id:(\d+)")

TokenIds = Callable[[str], Sequence[int]]  # of a text, special tokens included


class Unproven(Exception):
    """Why log-probabilities are not used, in a clause."""


class Absent(Unproven):
    """The server gives none at all."""


@dataclass(frozen=True)
class Echo:
    """One option behind its prompt: tokens that are proven to be its text, and their log-probabilities."""

    tokens: tuple[str, ...]  # with what stands before the text, without what was generated after it
    logprobs: tuple[float | None, ...]  # nats; None for the first token, which nothing predicts
    first: int  # index of the first token that reaches into the option


def likelihood_of_options(
    choices: Sequence[Any], prompt: str, options: Sequence[str], tolerance: float, ids: TokenIds | None = None
) -> Likelihood:
    """The log-likelihood of each option behind the prompt. Raises Unproven where any of them is not proven.

    choices: of the server's JSON, one an option. tolerance: nats by which the log-probability of one token in one
    context may differ. ids: the model's own tokenizer, needed where the server names tokens by number alone.
    """
    if len(choices) != len(options):
        raise Unproven(f"{len(choices)} texts came back for {len(options)} options")
    parts = [choice.get("logprobs") for choice in choices if isinstance(choice, dict)]
    if not any(isinstance(part, dict) and "content" not in part for part in parts):  # llama.cpp's: of what it wrote
        raise Absent("the server gives no log-likelihoods of a prompt (echo, logprobs)")
    echoes = [proven(choice, prompt, o, ids) for choice, o in zip(in_order(choices), options, strict=True)]
    agree(echoes, tolerance)
    by_option = [echo.logprobs[echo.first :] for echo in echoes]
    sums = tuple(math.fsum(value for value in values if value is not None) for values in by_option)
    return Likelihood(sums, tuple(map(len, by_option)))


def in_order(choices: Sequence[Any]) -> list[Any]:
    """By index. Where the indices are not distinct numbers, as they came: each has to prove itself anyway."""
    numbers: list[Any] = [choice.get("index") if isinstance(choice, dict) else None for choice in choices]
    if all(type(number) is int for number in numbers) and len(set(numbers)) == len(numbers):
        return [choices[i] for i in sorted(range(len(choices)), key=numbers.__getitem__)]
    return list(choices)


def proven(choice: Any, prompt: str, option: str, ids: TokenIds | None = None) -> Echo:
    """The echo of prompt + option. Raises Unproven with what speaks against it."""
    part = choice.get("logprobs") if isinstance(choice, dict) else None
    tokens, values = (part.get(name) if isinstance(part, dict) else None for name in ("tokens", "token_logprobs"))
    if not isinstance(tokens, list) or not isinstance(values, list) or not tokens:
        raise Unproven("an option came back without tokens and their log-probabilities")
    if len(tokens) != len(values):
        raise Unproven(f"{len(values)} log-probabilities came back for {len(tokens)} tokens")
    if not all(isinstance(token, str) for token in tokens):
        raise Unproven("a token came back that is no text")
    by_number = all(ID.fullmatch(token) for token in tokens)
    first, end = by_ids(tokens, prompt, option, ids) if by_number else by_text(tokens, prompt, option)
    if first == end:
        raise Unproven("an option came back without a token of its own")
    return Echo(tuple(tokens[:end]), checked(values[:end], first), first)


def checked(values: Sequence[Any], first: int) -> tuple[float | None, ...]:
    """The log-probabilities, of which the first alone is null. Raises Unproven for any that is none."""
    if values[0] is not None:  # a list that is shifted by one place would begin like this
        raise Unproven("the first token has a log-probability, though nothing stands before it")
    if first == 0:
        raise Unproven("the option's first token has no log-probability")
    for value in values[1:]:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not PLACEHOLDER < value <= ROUNDING:  # NaN is in no range
            raise Unproven(f"a token has the log-probability {value}, which is none")
    return (None, *map(float, values[1:]))


def by_ids(tokens: Sequence[str], prompt: str, option: str, ids: TokenIds | None) -> tuple[int, int]:
    """(index of the option's first token, of the end of the text) of tokens that are named by number.

    As in the local engine, the option begins where its tokens leave those of the bare prompt.
    """
    if ids is None:
        raise Unproven("tokens came back by number, and the model's tokenizer is not on this disk")
    found = [int(token.removeprefix("token_id:")) for token in tokens]
    whole, bare = list(ids(prompt + option)), list(ids(prompt))
    if found[: len(whole)] != whole or len(found) > len(whole) + GENERATED:
        raise Unproven("other tokens came back than the model's own tokenizer makes of the text")
    first = next((i for i, (a, b) in enumerate(zip(bare, whole, strict=False)) if a != b), min(len(bare), len(whole)))
    return first, len(whole)


def by_text(tokens: Sequence[str], prompt: str, option: str) -> tuple[int, int]:
    """(index of the option's first token, of the end of the text), by tokens that rebuild the text exactly.

    A token over the end of the prompt belongs to the option. Special tokens before the text are recognised because the
    rest is the whole text.
    """
    whole, begin = (prompt + option).encode("utf-8", "surrogatepass"), len(prompt.encode("utf-8", "surrogatepass"))
    for leading in range(min(LEADING, len(tokens)) + 1):
        if not all(map(SPECIAL.fullmatch, tokens[:leading])):
            break
        for way in WAYS:
            pieces = way(tokens[leading:], whole)
            starts = rebuilt(pieces, whole) if pieces else None
            if starts:
                return boundary(starts, begin, leading), leading + len(starts) - 1
    raise Unproven("the tokens that came back do not rebuild the text that was sent")


def rebuilt(pieces: Sequence[bytes], whole: bytes) -> list[int] | None:
    """Where each piece begins, and the end of the text, if the pieces are the text and what was generated after it."""
    starts = [0]
    for piece in pieces:
        if starts[-1] == len(whole) and len(pieces) - len(starts) < GENERATED:
            break
        if not whole.startswith(piece, starts[-1]):
            return None
        starts.append(starts[-1] + len(piece))
    ended = starts[-1] == len(whole) and starts[-2:-1] != starts[-1:]  # an empty last token may be no part of the text
    return starts if ended else None


def boundary(starts: Sequence[int], begin: int, leading: int) -> int:
    """Index of the first token that reaches beyond byte `begin`. Raises Unproven where an empty token stands there."""
    spans = list(pairwise(starts))
    if any(start == stop == begin for start, stop in spans):
        raise Unproven("an empty token stands between prompt and option")
    return leading + next((i for i, (_, stop) in enumerate(spans) if stop > begin), len(spans))


# ---- What servers write for a token: each way gives the bytes that tokens stand for, None where it is not theirs


def as_text(tokens: Sequence[str], whole: bytes) -> list[bytes] | None:
    """Tokens as they are in the text."""
    return [token.encode("utf-8", "surrogatepass") for token in tokens]


ESCAPED = re.compile(r"\\x([0-9a-fA-F]{2})")


def as_escaped(tokens: Sequence[str], whole: bytes) -> list[bytes] | None:
    r"""OpenAI's: a token that is no whole character is `bytes:\xe2\x80`."""

    def one(token: str) -> bytes:
        if not (token.startswith("bytes:") and ESCAPED.search(token)):
            return token.encode("utf-8", "surrogatepass")
        parts = ESCAPED.split(token.removeprefix("bytes:"))
        return b"".join(bytes.fromhex(p) if i % 2 else p.encode("utf-8", "surrogatepass") for i, p in enumerate(parts))

    return [one(token) for token in tokens]


BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def as_pieces(tokens: Sequence[str], whole: bytes) -> list[bytes] | None:
    """SentencePiece's: a space is U+2581, a byte <0xE2>, and the text may have got a space in front.

    A text that begins with a space or holds U+2581 could be another one, so it is not recognised.
    """
    if whole.startswith(b" ") or "\u2581".encode() in whole:
        return None
    pieces = []
    for token in tokens:
        byte = BYTE.fullmatch(token)
        text = token.replace("\u2581", " ")
        pieces.append(bytes.fromhex(byte[1]) if byte else text.encode("utf-8", "surrogatepass"))
    return [pieces[0].removeprefix(b" "), *pieces[1:]] if pieces else pieces


def _alphabet() -> dict[str, int]:
    """Byte-level BPE's letter for each byte: printable ones stand for themselves, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


LETTERS = _alphabet()


def as_bytes(tokens: Sequence[str], whole: bytes) -> list[bytes] | None:
    """Byte-level BPE's: each letter is a byte, a space is U+0120. The generated token may be anything."""
    text = tokens[: len(tokens) - GENERATED]
    if not all(letter in LETTERS for token in text for letter in token):
        return None
    return [bytes(LETTERS[letter] for letter in token if letter in LETTERS) for token in tokens]


WAYS = (as_text, as_escaped, as_pieces, as_bytes)


# ---- What options share


@dataclass
class Node:
    """A token behind those before it, with the log-probability that the first option gave it."""

    logprob: float | None = None
    after: dict[str, Node] = field(default_factory=dict)


def agree(echoes: Sequence[Echo], tolerance: float) -> None:
    """Raises Unproven where the echoes contradict each other.

    Up to the option they have the same tokens, but for one over its beginning. One token behind the same others has one
    log-probability, within `tolerance` nats. The tokens that may follow them have a probability of 1 together.
    """
    longest = max((echo.tokens[: echo.first] for echo in echoes), key=len)
    if any(echo.tokens[: echo.first] != longest[: echo.first] for echo in echoes):
        raise Unproven("the options split their common prompt into different tokens")
    root = Node()
    nodes = [root]
    for echo in echoes:
        at = root
        for token, logprob in zip(echo.tokens, echo.logprobs, strict=True):
            if token not in at.after:
                at.after[token] = Node(logprob)
                nodes.append(at.after[token])
            at = at.after[token]
            if logprob is not None and at.logprob is not None and abs(logprob - at.logprob) > tolerance:
                raise Unproven(
                    f"one token of the prompt has the log-probability {at.logprob:.4g} before one option and "
                    f"{logprob:.4g} before another"
                )
    for node in nodes:
        known = [after.logprob for after in node.after.values() if after.logprob is not None]
        if math.fsum(map(math.exp, known)) > math.exp(tolerance):
            raise Unproven("the probabilities of what may follow one text add up to more than 1")
