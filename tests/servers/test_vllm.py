"""vLLM on a CPU beside the local engine: texts, log-likelihoods, draws, deaths, and what is not what it seems."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.cell.store import Store
from tests.servers import asked, started
from tests.servers.asked import Answered, answered, execute, furthest
from tests.servers.started import Started

pytestmark = pytest.mark.servers
NATS = 3e-5
ALPHA = 1e-3  # of a false alarm in a test of draws, over its prompts together (Holm)
DRAWS = 100
SECONDS: list[float] = []  # that the local engine took, weights and imports included
CONFIGURATIONS = {  # what vLLM does by itself, and with both switched off
    "as it comes": ("--enable-prefix-caching", "--max-num-batched-tokens", "256"),  # so that prompts are read in parts
    "plain": ("--no-enable-prefix-caching", "--no-enable-chunked-prefill", "--max-num-batched-tokens", "2048"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="module")
def local(place: Path) -> Answered:
    begun = time.monotonic()
    assert execute(place, "local") == 0
    SECONDS.append(time.monotonic() - begun)
    return answered(place, "local")


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def server(place: Path, request: pytest.FixtureRequest) -> Iterator[Started]:
    with started.vllm(place, *CONFIGURATIONS[request.param]) as running:
        running.name = request.param.replace(" ", "_")  # type: ignore[attr-defined]
        yield running


def words(running: Started, *more: str) -> list[str]:
    return ["engine=vllm", f"engine.base_url={running.url}", "engine.model=m", "engine.retries=2", *more]


@pytest.mark.parametrize("concurrency", [1, 8])
def test_greedy_texts_are_equal_and_log_likelihoods_near(
    place: Path, local: Answered, server: Started, concurrency: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second order of calls finds the server's cache full of the first's prompts."""
    out = f"vllm-{server.name}-{concurrency}"  # type: ignore[attr-defined]
    order = [] if concurrency == 1 else ["tasks=[implicatures,social_iqa]"]
    begun = time.monotonic()
    assert execute(place, out, *words(server, f"engine.concurrency={concurrency}", *order)) == 0
    ratio = (time.monotonic() - begun) / SECONDS[0]
    said = answered(place, out)
    assert (said.texts, said.sha256) == (local.texts, local.sha256)
    assert furthest(said, local) < NATS
    assert "4 greedy answers as the local engine's" in capsys.readouterr().err
    found = f"{len(said.texts)} of {len(local.texts)} texts, within {furthest(said, local):.1e} nats"
    print(f"{out}: {found}, in {ratio:.1f} times the local engine's seconds")


@pytest.mark.parametrize("server", ["plain"], indirect=True)
@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 20), (0.5, 20), (1.0, 3)])
def test_seeded_draws_have_the_exact_distribution(place: Path, server: Started, temperature: float, top_k: int) -> None:
    """Chi-square of the first token behind three prompts, Holm: one false alarm in a thousand runs."""
    prompts = asked.openers()
    sampled = [f"generation.temperature={temperature}", f"generation.top_k={top_k}", "engine.compare=0"]
    counts = asked.draws(place, *words(server, *sampled), prompts=prompts, n=DRAWS)
    found = asked.p_values(counts, asked.exact(started.FOLDER, prompts, temperature, top_k))
    print(f"temperature {temperature}, top {top_k}: {[sum(c.values()) for c in counts]} draws, p {found}")
    assert asked.holm(found) >= ALPHA
    flat = asked.exact(started.FOLDER, prompts, 2 * temperature, top_k)  # the test can tell another temperature
    assert asked.holm(asked.p_values(counts, flat)) < ALPHA


def test_a_server_that_dies_of_a_seed_loses_nothing_and_the_message_says_how_to_avoid_it(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = started.free_port()
    sampled = [
        "generation.temperature=0.5",
        "generation.likelihood=false",
        "engine.concurrency=8",
        "engine.timeout_s=300",
    ]
    with started.vllm(place, *CONFIGURATIONS["as it comes"], port=port) as running:
        assert execute(place, "dies", *words(running, *sampled, "engine.compare=0")) == 1
        assert "CPU Generator does not use offset" in running.path.read_text()
    said = capsys.readouterr()
    assert "--no-enable-chunked-prefill" in said.out + said.err
    before = len(Store(place / "stores/dies"))
    with started.vllm(place, *CONFIGURATIONS["plain"], port=port) as running:
        assert execute(place, "dies", *words(running, *sampled)) == 0
        assert execute(place, "whole", *words(running, *sampled)) == 0
    print(f"{before} of {len(Store(place / 'stores/dies'))} answers were stored when it died")
    assert answered(place, "dies") == answered(place, "whole")


def test_a_server_that_is_killed_half_way_costs_nothing(
    place: Path, local: Answered, capsys: pytest.CaptureFixture[str]
) -> None:
    port = started.free_port()
    out = "killed"
    with started.vllm(place, *CONFIGURATIONS["plain"], port=port) as running:
        given = words(running, "engine.concurrency=2", "engine.compare=0")

        asked.killed_after(3, place / "stores" / out, running)
        assert execute(place, out, *given) == 1
    kept = len(Store(place / "stores" / out))
    said = capsys.readouterr()
    assert "does not answer" in said.out + said.err
    assert "the same command goes on" in said.out + said.err
    with started.vllm(place, *CONFIGURATIONS["plain"], port=port):
        assert execute(place, out, *given) == 0
    assert 3 <= kept < len(Store(place / "stores" / out))
    assert answered(place, out).sha256 == local.sha256
    assert furthest(answered(place, out), local) < NATS


# ---- What is not the model, and what does not read the prompt


@pytest.mark.parametrize("server", ["as it comes"], indirect=True)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_prompt_that_vllm_cuts_is_no_answer(
    place: Path, server: Started, side: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cuts = ["+engine.extra_body.truncate_prompt_tokens=64", f"+engine.extra_body.truncation_side={side}"]
    assert execute(place, f"cut-{side}", *words(server, *cuts)) == 1
    said = capsys.readouterr()
    assert "it read 64 tokens where the model's own tokenizer makes" in said.out + said.err
    assert not len(Store(place / "stores" / f"cut-{side}"))


def test_another_precision_and_a_window_that_is_too_short_are_said(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with started.vllm(place, "--max-model-len", "2048", dtype="bfloat16") as running:
        assert execute(place, "bfloat16", *words(running)) == 1
    said = capsys.readouterr()
    assert "a precision other than model.dtype" in said.out + said.err
    assert not len(Store(place / "stores/bfloat16"))
    with started.vllm(place, "--max-model-len", "128") as running:
        assert execute(place, "short", *words(running)) == 1
    said = capsys.readouterr()
    assert "maximum context length" in said.out + said.err
    assert not len(Store(place / "stores/short"))


def test_another_model_under_the_same_name_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same tokenizer and sizes, other weights: only the answers tell."""
    import torch
    from safetensors.torch import load_file, save_file

    other = place / "other"
    shutil.copytree(started.FOLDER, other)
    tensors = load_file(other / "model.safetensors")
    torch.manual_seed(0)
    tensors = {name: t + 0.02 * t.std() * torch.randn_like(t) for name, t in tensors.items()}
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    with started.vllm(place, folder=other) as running:
        assert execute(place, "other", *words(running)) == 1
    said = capsys.readouterr()
    assert "another model" in said.out + said.err
    assert not len(Store(place / "stores/other"))
