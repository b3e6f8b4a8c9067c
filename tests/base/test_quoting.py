"""A path on the command line is taken as it is written, or the error says how to write it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.base import grid, quoting
from src.base.errors import UserError

ODD = (
    "/data/jürgen/läufe", "/data/ju\u0308rgen/la\u0308ufe", "/data/日本", "/data/it's", "/data/a[1]", "/data/a=b",
    "/data/{a}", "/data/(a)", "/data/a#b", "/data/a%b", "/data/a&b", "/data/a;b", "/data/a`b", "/data/a!b",
    "/data/a^b", "/data/a<b>", '/data/"q"', "/data/a\\b", "/data/ends\\", "/data/\\'", "/data/a b", "/data/a  b",
    "-x", "2024", "true", "[a]", "{a:1}", "range(3)", "/data/$x", "/data/a:b", "/data/a?b*", "/data/@a",
)  # fmt: skip


@pytest.mark.parametrize("path", ODD)
def test_a_plain_path_is_the_folder_of_that_name(path: str) -> None:
    words = grid.checked_overrides(["+model=gpt2", f"out={path}", f"model.path={path}"])
    assert [str(quoting.parsed(word).value()) for word in words[1:]] == [path, path]


def test_a_run_takes_a_plain_path_for_every_key_that_names_one() -> None:
    path = "/data/jürgen/it's [a=1] {b}"
    run = grid.composed_run(["+model=gpt2", *(f"{key}={path}" for key in ("out", "store", "data", "model.path"))])
    assert (run.out, run.store, run.data) == (Path(path),) * 3
    assert run.model.path == path


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters=",$"), min_size=1))
def test_any_path_without_a_comma_comes_back_as_it_was_written(path: str) -> None:
    given_words = path if path[0] not in "'\"" and path == path.strip() and path != "null" else f"/{path}x"
    word = quoting.with_quotes(f"out={given_words}")
    assert str(quoting.parsed(word).value()) == given_words


@pytest.mark.parametrize(
    ("word", "path"), [("out='/data/a,b'", "/data/a,b"), ('out="/data/it\'s"', "/data/it's"), ("out=null", None)]
)
def test_a_path_that_has_quotes_already_is_left_to_hydra(word: str, path: str | None) -> None:
    assert quoting.with_quotes(word) == word
    assert quoting.parsed(word).value() == path


@pytest.mark.parametrize("word", ["out=/data/a,b", "out=/data/ä,b", "store=/data/a,b"])
def test_a_comma_in_a_path_is_not_guessed_at(word: str) -> None:
    """It may be two paths of a sweep. The error shows the word that means one."""
    with pytest.raises(UserError) as told:
        grid.checked_overrides(["+model=gpt2", word])
    shown = str(told.value).rpartition('"')[0].rpartition('"')[2]
    assert str(quoting.parsed(shown).value()).startswith("/")
    assert not quoting.parsed(shown).is_sweep_override()


def test_the_tilde_that_a_shell_leaves_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/data/someone")
    run = grid.composed_run(["+model=gpt2", "out=~/out", "store=~/store"])
    assert (run.out, run.store) == (Path("/data/someone/out"), Path("/data/someone/store"))


@pytest.mark.parametrize("word", ["suite=pi(lot", "limit=8!", "tracking.experiment=it's"])
def test_another_word_that_hydra_cannot_read_is_shown_in_quotes(word: str) -> None:
    with pytest.raises(UserError, match=r"goes into quotes, and the word into the shell's: ") as told:
        grid.checked_overrides(["+model=gpt2", word])
    shown = str(told.value).split("shell's: ")[1][1:-1].replace('\\"', '"')
    assert str(quoting.parsed(shown).value()) == word.partition("=")[2]
