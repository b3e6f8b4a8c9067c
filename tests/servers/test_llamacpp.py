"""llama.cpp's server beside the local engine: with the 4-bit file, and with the same weights in float32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from src.base.errors import UserError
from src.cell.store import Store
from tests.servers import asked, started
from tests.servers.asked import Answered, answered, execute
from tests.servers.started import Started

pytestmark = pytest.mark.servers
ALPHA = 1e-3  # of a false alarm in a test of draws, over its prompts together (Holm)
DRAWS = 100


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("llamacpp")


@pytest.fixture(scope="module")
def local(place: Path) -> Answered:
    assert execute(place, "local") == 0
    return answered(place, "local")


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Started]:
    """The weights in float32, and keys and values too."""
    file = started.float32_gguf(started.GGUF, place / "float32.gguf")
    with started.llamacpp(place, file, **started.EXACT, n_parallel=2, n_ctx=4096) as running:
        running.file = file  # type: ignore[attr-defined]
        yield running


def words(running: Started, *more: str) -> list[str]:
    return ["engine=llamacpp", f"engine.base_url={running.url}", "engine.model=m", "engine.retries=2",
            "engine.concurrency=2", *more]  # fmt: skip


def test_weights_in_float32_give_the_same_texts_and_no_log_likelihoods_of_a_prompt(
    place: Path, local: Answered, server: Started, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(place, "exact", *words(server)) == 0
    said = answered(place, "exact")
    assert (said.texts, said.sha256) == (local.texts, local.sha256)
    assert not said.logprobs
    err = capsys.readouterr().err
    assert "4 greedy answers as the local engine's, log-likelihoods of" in err
    assert "the log-likelihoods of" in err  # are unknown, and one line says why


def test_four_bit_arithmetic_is_another_model_unless_the_user_takes_it(
    place: Path, local: Answered, capsys: pytest.CaptureFixture[str]
) -> None:
    with started.llamacpp(place) as running:
        assert execute(place, "q4", *words(running)) == 1
        said = capsys.readouterr()
        assert "a precision other than model.dtype" in said.out + said.err
        assert not len(Store(place / "stores/q4"))
        assert execute(place, "q4", *words(running, "engine.compare=0", "engine.concurrency=1")) == 0
    found = answered(place, "q4")
    equal = sum(found.texts[key] == text for key, text in local.texts.items())
    print(f"the 4-bit file: {equal} of {len(local.texts)} texts")
    assert found.texts.keys() == local.texts.keys()


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 20), (0.5, 20), (1.0, 3)])
def test_draws_have_the_exact_distribution_and_its_own_defaults_do_not(
    place: Path, server: Started, temperature: float, top_k: int
) -> None:
    """Chi-square of the first token behind three prompts, Holm: one false alarm in a thousand runs."""
    prompts = asked.openers()
    sampled = [f"generation.temperature={temperature}", f"generation.top_k={top_k}", "engine.compare=0"]
    chances = asked.exact(started.FOLDER, prompts, temperature, top_k)
    counts = asked.draws(place, *words(server, *sampled), prompts=prompts, n=DRAWS)
    assert asked.holm(asked.p_values(counts, chances)) >= ALPHA
    if (temperature, top_k) == (1.0, 20):
        defaults = [*words(server, *sampled), "engine=openai", "engine.key=null", "+engine.extra_body.top_k=20"]
        bent = asked.draws(place, *[w for w in defaults if w != "engine=llamacpp"], prompts=prompts, n=2 * DRAWS)
        assert asked.holm(asked.p_values(bent, chances)) < ALPHA


def test_a_context_that_is_too_short_is_said_even_where_the_server_would_shift_it(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A five-shot prompt of more than 128 tokens, with and without the shift that drops its beginning."""
    for shifts in (False, True):
        with started.llamacpp(place, n_ctx=128, ctx_shift=shifts) as running:
            out = f"short-{shifts}"
            assert execute(place, out, *words(running, "engine.compare=0", "engine.concurrency=1")) == 1
        said = capsys.readouterr()
        assert "context size" in said.out + said.err
        assert not len(Store(place / "stores" / out))


def test_a_token_that_the_server_puts_in_front_is_refused(place: Path) -> None:
    file = started.float32_gguf(started.GGUF, place / "bos.gguf", adds_bos=True)
    with (
        started.llamacpp(place, file) as running,
        pytest.raises(UserError, match="it read 12 tokens where the model's own tokenizer makes 11"),
    ):
        asked.draws(place, *words(running, "engine.compare=0"), prompts=asked.openers()[:1], n=1)


def test_a_server_that_is_killed_half_way_costs_nothing(
    place: Path, local: Answered, server: Started, capsys: pytest.CaptureFixture[str]
) -> None:
    port = started.free_port()
    file = Path(server.file)  # type: ignore[attr-defined]
    given = dict(**started.EXACT, n_parallel=1)
    with started.llamacpp(place, file, port=port, **given) as running:
        asks = words(running, "engine.concurrency=1", "engine.compare=0", "generation.likelihood=false")
        asked.killed_after(2, place / "stores/killed", running)
        assert execute(place, "killed", *asks) == 1
    said = capsys.readouterr()
    assert "does not answer" in said.out + said.err
    kept = len(Store(place / "stores/killed"))
    with started.llamacpp(place, file, port=port, **given):
        assert execute(place, "killed", *asks) == 0
    assert 2 <= kept < len(Store(place / "stores/killed"))
    assert answered(place, "killed").sha256 == local.sha256
