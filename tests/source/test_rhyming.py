"""The word-rhyme items: what each one promises, on a small dictionary of our own and on the real one where it is."""

from itertools import pairwise
from pathlib import Path

import pytest

from src.base.errors import UserError
from src.source import rhyming
from src.source.rhyming import Word, read_dictionary, rhymes, rhyming_items

REAL = Path("data/raw/rhyming/cmudict.dict")
STEMS = {"zop": "Z AA1 P", "crop": "K R AA1 P", "mop": "M AA1 P", "bake": "B EY1 K", "rake": "R EY1 K", "ache": "EY1 K"}


def dictionary(stems: dict[str, str]) -> str:
    """cmudict lines of verbs with their past and -ing forms."""
    rows = []
    for text, spoken in stems.items():
        past, continuous, _ = rhyming.inflections(text)
        rows += [f"{text} {spoken}", f"{past} {spoken} T", f"{continuous} {spoken} IH0 NG"]
    return "\n".join(rows) + "\n"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.dict"
    path.write_text(dictionary(STEMS))
    return path


def word(text: str, spoken: str) -> Word:
    return Word(text, tuple(spoken.split()))


def test_published_rhymes_are_rhymes_except_homophones() -> None:
    """Pronunciations as in the CMU dictionary; the answers are those of the published exemplars."""
    represent, extent = word("represent", "R EH2 P R IH0 Z EH1 N T"), word("extent", "IH0 K S T EH1 N T")
    assert rhymes(represent, extent)
    assert rhymes(word("fit", "F IH1 T"), word("schmidt", "SH M IH1 T"))
    assert not rhymes(word("hall", "HH AO1 L"), word("haul", "HH AO1 L"))
    assert not rhymes(represent, word("expressing", "IH0 K S P R EH1 S IH0 NG"))


def test_stress_digits_do_not_part_rhymes() -> None:
    assert rhymes(word("bride", "B R AY1 D"), word("landslide", "L AE1 N D S L AY2 D"))


def test_only_plain_words_with_one_pronunciation_are_read() -> None:
    text = "read R EH1 D\nread(2) R IY1 D\no'clock AH0 K L AA1 K\nab AE1 B\nbake B EY1 K # comment\n"
    assert set(read_dictionary(text)) == {"bake"}
    assert read_dictionary(text)["bake"].phonemes == ("B", "EY1", "K")


@pytest.mark.parametrize(
    ("text", "forms"),
    [
        ("stop", ("stopped", "stopping", "stops")),
        ("bake", ("baked", "baking", "bakes")),
        ("carry", ("carried", "carrying", "carries")),
        ("play", ("played", "playing", "plays")),
        ("wish", ("wished", "wishing", "wishes")),
        ("deliver", ("delivered", "delivering", "delivers")),
    ],
)
def test_inflections_follow_english_spelling(text: str, forms: tuple[str, str, str]) -> None:
    assert rhyming.inflections(text) == forms


def test_a_name_spelt_like_a_verb_is_dropped_with_the_verb() -> None:
    known = ["cook", "cooke", "cooked", "cooking", "bake", "baked", "baking", "smith"]
    assert rhyming.ordinary(known) == {"bake"}


def test_items_have_one_rhyme_among_five_options(small: Path) -> None:
    words = read_dictionary(small.read_text())
    items = rhyming_items(small, count=5)
    assert len({item["input"] for item in items}) == 5
    for item in items:
        asked = words[item["input"]]
        assert len(set(item["options"])) == 5
        assert item["input"] not in item["options"]
        assert rhymes(asked, words[item["answer"]])
        assert [o for o in item["options"] if words[o].rhyme == asked.rhyme] == [item["answer"]]


def test_items_do_not_depend_on_the_order_of_the_dictionary(small: Path, tmp_path: Path) -> None:
    turned = tmp_path / "turned.dict"
    turned.write_text("\n".join(reversed(small.read_text().splitlines())) + "\n")
    assert rhyming_items(turned, count=5) == rhyming_items(small, count=5)


def test_fewer_items_are_the_beginning_of_more(small: Path) -> None:
    sizes = [rhyming_items(small, count=n) for n in (1, 3, 5)]
    assert all(more[: len(fewer)] == fewer for fewer, more in pairwise(sizes))


def test_exemplar_words_are_not_asked(small: Path) -> None:
    assert "crop" not in {item["input"] for item in rhyming_items(small, exclude=["crop"], count=5)}


def test_too_small_a_dictionary_is_a_clear_error(small: Path) -> None:
    with pytest.raises(UserError, match=r"small\.dict: \d words with a rhyme, 675 are needed"):
        rhyming_items(small)


@pytest.mark.skipif(not REAL.exists(), reason="needs python -m src.fetch rhyming")
def test_the_real_dictionary_gives_the_published_count_with_balanced_places() -> None:
    words = read_dictionary(REAL.read_text())
    items = rhyming_items(REAL)
    places = [item["options"].index(item["answer"]) for item in items]
    assert len({item["input"] for item in items}) == 675
    assert all(
        [o for o in item["options"] if words[o].rhyme == words[item["input"]].rhyme] == [item["answer"]]
        for item in items
    )
    # 675 answers over five places: expected 135 each, standard deviation 10.4; four of them allowed
    assert all(93 < places.count(place) < 177 for place in range(5))
