"""Log-likelihoods of a server are the local engine's or unknown, whatever its echo looks like."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from src.base.schema import Generation, Model, Serving
from src.engine.echo import LETTERS
from src.engine.job import Likelihood, Request
from src.engine.openai import OpenAIEngine
from src.question.prompts import Prompt
from tests.completions import Served, serving
from tests.tiny import local_engine, tiny

ASKED = 'Which is larger, a mouse or a house? The possible answers are "mouse", "house", but the correct one is'
ASCII = Prompt("t/0", "g", "", ASKED, ("mouse", "house"), (' "mouse".', ' "house".', ' "hou".'), 0, "mouse")
WIDE = Prompt("t/1", "g", "Größer? — ", ASKED, ("Maus",), (' "mouse é".', ' "häuser".'), 0, "Maus")
Bend = Callable[[list[dict[str, Any]], dict[str, Any]], Any]


class Place:
    """A server around a tiny model, and the local engine's log-likelihoods."""

    def __init__(self, folder: Path, url: str, served: Served):
        self.folder, self.url, self.served = folder, url, served
        self.kept: list[bytes] = []
        requests = [Request(prompt, (), True) for prompt in (ASCII, WIDE)]
        local = local_engine(folder, generation=Generation(temperature=0.0))
        self.local = {r.prompt_id: r.likelihood for batch in local.run(requests) for r in batch}
        self.ids = local.encode

    def engine(self, ids: Any = None, **how: Any) -> OpenAIEngine:
        serves = Serving(name="openai", kind="openai", base_url=self.url, model="m", **how)

        def keep(asked: str, reply: bytes) -> str:
            self.kept.append(reply)
            return "a file"

        return OpenAIEngine(serves, Model(name="m"), Generation(temperature=0.0), None, keep, ids)

    def said(self, prompt: Prompt, bend: Bend, **how: Any) -> Likelihood | None:
        """The likelihood where the server bends its choices and its answer like this."""

        def bent(asked: dict[str, Any], answer: dict[str, Any]) -> Any:
            answer = copy.deepcopy(answer)
            bend(answer["choices"], answer)
            return answer

        self.served.bend, self.served.asked, self.kept = bent, [], []
        (batch,) = self.engine(**how).run([Request(prompt, (), True)])
        (result,) = batch
        return result.likelihood


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tiny("llama", tmp_path_factory.mktemp("a model") / "weights")
    served = Served(folder)
    with serving(served) as url:
        yield Place(folder, url, served)


def same(one: Likelihood | None, other: Likelihood | None) -> bool:
    assert one
    assert other
    assert one.n_tokens == other.n_tokens
    return one.logprob == pytest.approx(other.logprob, rel=1e-4)


def each(change: Callable[[dict[str, Any]], Any], only: int | None = None) -> Bend:
    """Every option's logprobs (or one's) changed in place."""

    def bend(choices: list[dict[str, Any]], answer: dict[str, Any]) -> None:
        for i, choice in enumerate(choices):
            if only in (None, i):
                change(choice["logprobs"])

    return bend


def before(token: str, first: float | None = None) -> Bend:
    """A token in front, whose log-probability is `first`. The text's own first token then has one as well."""

    def change(part: dict[str, Any]) -> None:
        part["tokens"].insert(0, token)
        part["token_logprobs"][:1] = [first, -3.0]
        part["text_offset"] = [0, *(offset + len(token) for offset in part["text_offset"])]

    return each(change)


def offsets(change: Callable[[list[int], list[str]], Any]) -> Bend:
    return each(lambda part: part.__setitem__("text_offset", change(part["text_offset"], part["tokens"])))


def value(at: int, new: Any, only: int | None = None) -> Bend:
    return each(lambda part: part["token_logprobs"].__setitem__(at, new), only)


def no_generated(part: dict[str, Any]) -> None:
    for name in ("tokens", "token_logprobs", "text_offset"):
        part[name].pop()


def renumbered(numbers: Callable[[int], Any]) -> Bend:
    return lambda choices, _: [choice.update(index=numbers(i)) for i, choice in enumerate(choices)]


def in_bytes(part: dict[str, Any]) -> None:
    lengths = [len(token.encode()) for token in part["tokens"]]
    part["text_offset"] = [sum(lengths[:i]) for i in range(len(lengths))]


def spelt(way: Callable[[str], str]) -> Bend:
    return each(lambda part: part.__setitem__("tokens", [way(token) for token in part["tokens"]]))


def sentencepiece(dummy: bool) -> Bend:
    def change(part: dict[str, Any]) -> None:
        part["tokens"] = [token.replace(" ", "▁") for token in part["tokens"]]
        if dummy:
            part["tokens"][0] = "▁" + part["tokens"][0]

    return each(change)


RIGHT: dict[str, Bend] = {
    "as it should be": lambda choices, answer: None,
    "a token <s> in front": before("<s>"),
    "a token <|begin_of_text|> in front": before("<|begin_of_text|>"),
    "an empty token in front": before(""),
    "offsets that count bytes": each(in_bytes),
    "offsets from 1": offsets(lambda starts, _: [start + 1 for start in starts]),
    "offsets from the completion on": offsets(lambda starts, _: [start - len(ASKED) for start in starts]),
    "offsets all 0": offsets(lambda starts, _: [0 for _ in starts]),
    "offsets that descend": offsets(lambda starts, _: starts[::-1]),
    "offsets null": offsets(lambda starts, _: None),
    "offsets absent": each(lambda part: part.pop("text_offset")),
    "no generated token": each(no_generated),
    "the generated token without a log-probability": value(-1, None),
    "choices in another order": lambda choices, _: choices.reverse(),
    "choices numbered from 1": renumbered(lambda i: i + 1),
    "choices all numbered 0": renumbered(lambda i: 0),
    "choices without a number": renumbered(lambda i: None),
    "byte-level tokens": spelt(lambda token: token.replace(" ", "Ġ")),
    "SentencePiece tokens": sentencepiece(dummy=False),
    "SentencePiece tokens with a space in front": sentencepiece(dummy=True),
    "SentencePiece byte tokens": spelt(lambda token: f"<0x{ord(token):02X}>" if token == '"' else token),
    "OpenAI's byte tokens": spelt(lambda token: f"bytes:\\x{ord(token):02x}" if token == '"' else token),
    "noise": each(lambda part: part.update(token_logprobs=[v and v - 1e-3 for v in part["token_logprobs"]]), only=1),
}


def at_random(choices: list[dict[str, Any]], answer: dict[str, Any]) -> None:
    """In another order, and no number says which is which."""
    choices.reverse()
    for choice in choices:
        choice["index"] = 0


def without_the_last(part: dict[str, Any]) -> None:
    no_generated(part)
    no_generated(part)


UNKNOWN: dict[str, Bend] = {
    "null instead of log-probabilities": lambda choices, _: [choice.update(logprobs=None) for choice in choices],
    "log-probabilities of what was written alone": lambda choices, _: [
        choice.update(logprobs={"content": [{"token": " a", "logprob": -1.0}]}) for choice in choices
    ],
    "null for one option": lambda choices, _: choices[1].update(logprobs=None),
    "no tokens": each(lambda part: part.pop("tokens")),
    "tokens null": each(lambda part: part.update(tokens=None)),
    "tokens by number": spelt(lambda token: "token_id:7"),
    "tokens that are numbers": each(lambda part: part.update(tokens=list(range(len(part["tokens"]))))),
    "tokens unknown": spelt(lambda token: "?"),
    "tokens without their spaces": spelt(str.strip),
    "tokens in lower case": spelt(str.lower),
    "a token doubled": each(lambda part: part["tokens"].__setitem__(3, part["tokens"][3] * 2)),
    "a space lost inside": each(lambda part: part["tokens"].__setitem__(4, part["tokens"][4].replace(" ", ""))),
    "a word in front": before("Human:"),
    "a system prompt in front": lambda choices, answer: [before(t)(choices, answer) for t in ("<a>", "<b>", "<c>")],
    "the last token lost": each(without_the_last),
    "only the generated token": each(lambda part: part.update({k: part[k][-1:] for k in ("tokens", "token_logprobs")})),
    "more generated than asked": each(lambda part: [part["tokens"].append("x"), part["token_logprobs"].append(-1.0)]),
    "one log-probability less": each(lambda part: part["token_logprobs"].pop()),
    "shifted by one": each(lambda part: part["token_logprobs"].append(part["token_logprobs"].pop(0))),
    "a number for the first token": value(0, -1.0),
    "null in the option": value(-3, None),
    "null in the prompt": value(4, None),
    "null everywhere": each(lambda part: part.update(token_logprobs=[None] * len(part["tokens"]))),
    "NaN": value(-3, math.nan),
    "positive": value(-3, 0.5),
    "minus infinity": value(-3, -math.inf),
    "infinity": value(-3, math.inf),
    "a placeholder": value(-3, -9999.0),
    "a number without end": value(-3, -(10**400)),
    "text for a number": value(-3, "-1.0"),
    "true for a number": value(-3, True),
    "0 everywhere": each(lambda part: part.update(token_logprobs=[None] + [0.0] * (len(part["tokens"]) - 1))),
    "an option's prompt of another value": value(5, -77.0, only=1),
    "a prompt half a nat off": each(
        lambda part: part.update(token_logprobs=[v and v - 0.5 for v in part["token_logprobs"]]), only=2
    ),
    "one choice less": lambda choices, _: choices.pop(),
    "one choice more": lambda choices, _: choices.append(choices[0]),
    "one option twice": lambda choices, _: choices.__setitem__(1, {**choices[0], "index": 1}),
    "choices in another order, all numbered 0": at_random,
    "choices of wrong numbers": renumbered(lambda i: 2 - i),
    "an empty token before the option": each(
        lambda part: [part["tokens"].insert(begins(part), ""), part["token_logprobs"].insert(begins(part) - 1, -1.0)]
    ),
}  # fmt: skip


def begins(part: dict[str, Any]) -> int:
    return next(i for i in range(len(part["tokens"])) if len("".join(part["tokens"][:i])) >= len(ASKED))


@pytest.mark.parametrize("what", RIGHT)
def test_an_echo_that_rebuilds_the_text_gives_the_local_engines_numbers(place: Place, what: str) -> None:
    noisy = what == "noise"
    found, local = place.said(ASCII, RIGHT[what]), place.local[ASCII.id]
    assert found
    assert local
    assert found.n_tokens == local.n_tokens
    assert found.logprob == pytest.approx(local.logprob, abs=0.05 if noisy else 1e-3)


@pytest.mark.parametrize("what", UNKNOWN)
def test_an_echo_that_does_not_prove_itself_is_unknown_and_one_line_says_why(
    place: Place, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert place.said(ASCII, UNKNOWN[what]) is None
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "the log-likelihoods of t/0 are unknown: " in said
    absent = what in ("null instead of log-probabilities", "log-probabilities of what was written alone")
    assert len(place.kept) == (0 if absent else 1)  # what was paid for is kept


ALPHABET = {byte: letter for letter, byte in LETTERS.items()}
BYTES: dict[str, Callable[[bytes], str]] = {
    "byte-level": lambda piece: "".join(ALPHABET[byte] for byte in piece),
    "OpenAI": lambda piece: utf8(piece) or "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece),
    "SentencePiece": lambda piece: (utf8(piece) or f"<0x{piece[0]:02X}>").replace(" ", "▁"),
}


def utf8(piece: bytes) -> str:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return ""


@pytest.mark.parametrize("spelling", BYTES)
def test_characters_of_several_tokens_count_whole_where_their_bytes_are_shown(place: Place, spelling: str) -> None:
    """The tiny tokenizer splits é into two tokens. Offsets in characters cannot say so, bytes can."""

    def bend(choices: list[dict[str, Any]], answer: dict[str, Any]) -> None:
        for choice, option in zip(choices, WIDE.continuations, strict=True):
            ids = place.ids(WIDE.prefix + WIDE.text + option)
            pieces = [place.served.tokenizer.convert_ids_to_tokens(i) for i in ids]
            raw = [bytes(LETTERS[letter] for letter in piece) for piece in pieces]
            assert any(not utf8(piece) for piece in raw)
            choice["logprobs"]["tokens"] = [*map(BYTES[spelling], raw), "x"]

    assert same(place.said(WIDE, bend), place.local[WIDE.id])


def test_tokens_by_number_are_proven_by_the_models_own_tokenizer_alone(place: Place) -> None:
    def bend(choices: list[dict[str, Any]], answer: dict[str, Any]) -> None:
        for choice, option in zip(choices, WIDE.continuations, strict=True):
            ids = place.ids(WIDE.prefix + WIDE.text + option)
            choice["logprobs"]["tokens"] = [f"token_id:{i}" for i in (*ids, 0)]

    assert same(place.said(WIDE, bend, ids=place.ids), place.local[WIDE.id])
    assert place.said(WIDE, bend) is None
    assert place.said(WIDE, bend, ids=lambda text: place.ids(text)[1:], check_tokens=False) is None


def test_a_fresh_salt_goes_with_each_call_that_scores_and_with_no_other(place: Place) -> None:
    how = {"extra_body": {"top_k": 3}, "likelihood_body": {"cache_salt": "x{fresh}"}, "score_alone": True}
    found = place.said(ASCII, lambda choices, answer: None, **how)
    assert same(found, place.local[ASCII.id])  # one call an option: nothing that one computed is read by another
    assert [asked["prompt"] for asked in place.served.asked] == [ASKED + option for option in ASCII.continuations]
    assert len({asked["cache_salt"] for asked in place.served.asked}) == 3
    place.served.asked = []
    list(place.engine(**how).run([Request(ASCII, (1,), False)]))
    assert [(asked["top_k"], "cache_salt" in asked) for asked in place.served.asked] == [(3, False)]


def test_what_is_asked_to_score_is_part_of_the_key_of_likelihoods_and_not_of_completions(place: Place) -> None:
    plain, salted = place.engine(), place.engine(likelihood_body={"cache_salt": "{fresh}"})
    assert plain.completion_key(ASCII, 1) == salted.completion_key(ASCII, 1)
    assert plain.likelihood_key(ASCII) != salted.likelihood_key(ASCII)
    assert salted.likelihood_key(ASCII) == place.engine(likelihood_body={"cache_salt": "{fresh}"}).likelihood_key(ASCII)


def test_a_server_that_never_proves_itself_is_not_paid_for_ever(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.served.bend, place.served.asked = (
        lambda asked, answer: UNKNOWN["tokens unknown"](answer["choices"], answer) or answer,
        [],
    )
    requests = [Request(ASCII, (), True)] * 9
    results = [result for batch in place.engine().run(requests) for result in batch]
    assert [result.likelihood for result in results] == [None] * 9
    assert len(place.served.asked) == 3
    assert "No more is asked of it in this run" in capsys.readouterr().err
