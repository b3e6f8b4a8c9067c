"""engine=openai against servers that really answer: one of our own with faults, and `transformers serve`."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from mlflow import MlflowClient

from src.base import conf, grid
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.schema import Compat, Generation, Model, Serving
from src.cell.file import read_cell
from src.cell.store import Store
from src.engine import start
from src.engine.job import Request
from src.engine.local import LocalEngine
from src.engine.openai import OpenAIEngine, Pace
from src.lab.preemption import AGAIN
from src.question.prompts import Prompt
from src.source import weights
from tests import test_pipeline as line
from tests import warm
from tests.completions import FAULTS, Served, serving
from tests.test_pipeline import execute, place  # noqa: F401

KEY = "sk-a-secret-that-nobody-may-see"
PRICES = ("++model.usd_per_million_in=1000", "++model.usd_per_million_out=2000")


def words(url, *more):
    given = ["engine=openai", f"engine.base_url={url}", "engine.key=null", "engine.model=m", "engine.retries=7"]
    return [*given, "engine.compare=0", "generation.temperature=0", *more]


def answers(folder):
    found = {}
    for path in sorted(folder.glob("*.jsonl")):
        found[path.name] = [
            (a.prompt.id, {s: c.text for s, c in a.completions.items()}, a.likelihood) for a in read_cell(path)[1]
        ]
    return found


def same(one, other):
    assert one.keys() == other.keys()
    for name, rows in one.items():
        for (a, texts, scored), (b, texts_b, scored_b) in zip(rows, other[name], strict=True):
            assert (a, texts) == (b, texts_b)
            assert scored.n_tokens == scored_b.n_tokens
            assert scored.logprob == pytest.approx(scored_b.logprob, rel=1e-4)


@pytest.fixture(scope="module")
def local(place):  # noqa: F811
    """What the local engine says to the same prompts, greedily."""
    assert execute(place, "generation.temperature=0", out="outputs/local") == 0
    return answers(place / "outputs/local")


@pytest.mark.parametrize(
    "faults", [(), *(pytest.param((fault,) * 3, marks=pytest.mark.slow) for fault in FAULTS), FAULTS * 2]
)
def test_whatever_befalls_a_call_the_answers_are_the_local_engines_and_none_is_paid_twice(place, local, faults):  # noqa: F811
    served, name = Served(place / "weights", faults), "-".join(faults).replace(" ", "_") or "none"
    asked = [f"store='{place / 'stores' / name}'", "engine.timeout_s=1.5", "engine.concurrency=3"]
    with serving(served) as url:
        assert execute(place, *words(url, *asked), out=f"outputs/{name}") == 0
    same(answers(place / "outputs" / name), local)
    assert not served.faults
    assert set(served.delivered.values()) == {1}
    assert len(served.delivered) == len(Store(place / "stores" / name)) > 30  # a completion and the options of each
    assert execute(place, *words(url, *asked), out=f"outputs/{name}") == 0  # the server is gone: all is in the store


def test_the_run_stops_before_its_budget_is_exceeded_and_goes_on_with_a_larger_one(place, local, capsys):  # noqa: F811
    served = Served(place / "weights")
    store = f"store='{place / 'stores/budget'}'"
    with serving(served) as url:
        few = words(url, store, *PRICES, "engine.max_cost_usd=5")
        assert execute(place, *few) == 1
        assert "engine.max_cost_usd=5" in capsys.readouterr().out
        spent = (1000 * served.tokens[0] + 2000 * served.tokens[1]) / 1e6
        assert 1 < spent <= 5
        before = len(Store(place / "stores/budget"))
        assert before == sum(served.delivered.values()) > 0
        assert execute(place, *words(url, store, *PRICES, "engine.max_cost_usd=1000"), out="outputs/budget") == 0
    assert set(served.delivered.values()) == {1}
    same(answers(place / "outputs/budget"), local)
    client = MlflowClient(f"sqlite:///{place / 'runs.db'}")
    experiment = client.get_experiment_by_name("a-test").experiment_id
    cost = [each.data.metrics.get("cost_usd", 0.0) for each in client.search_runs([experiment], "tags.kind = 'cell'")]
    assert 0 < sum(cost) <= (1000 * served.tokens[0] + 2000 * served.tokens[1]) / 1e6  # of the cells that ended


def test_a_budget_without_prices_is_refused(place):  # noqa: F811
    with pytest.raises(UserError, match="usd_per_million_in"):
        execute(place, *words("http://127.0.0.1:9/v1", "engine.max_cost_usd=1"))


def test_a_server_without_log_likelihoods_leaves_them_null_and_says_so_once(place, local, capsys):  # noqa: F811
    served = Served(place / "weights", scores=False)
    with serving(served) as url:
        store = f"store='{place / 'stores/unscored'}'"
        assert execute(place, *words(url, store, "engine.concurrency=1"), out="outputs/unscored") == 0
    assert capsys.readouterr().err.count("gives no log-likelihoods") == 1
    assert sum("[true," in asked for asked in served.delivered) == 1
    for name, rows in answers(place / "outputs/unscored").items():
        assert [row[:2] for row in rows] == [row[:2] for row in local[name]]
        assert {row[2] for row in rows} == {None}


def test_the_key_is_read_from_the_environment_and_is_nowhere_else(place, monkeypatch, capsys):  # noqa: F811
    served = Served(place / "weights", key=KEY)
    folder = place / "secret"
    asked = [f"store='{folder / 'store'}'", "engine.key=A_KEY", f"tracking.uri='sqlite:///{folder / 'runs.db'}'"]
    with serving(served) as url:
        monkeypatch.delenv("A_KEY", raising=False)
        assert execute(place, *words(url, *asked)) == 1
        assert "The environment has no A_KEY" in capsys.readouterr().out
        monkeypatch.setenv("A_KEY", "sk-a-wrong-one")
        assert execute(place, *words(url, *asked)) == 1
        said = capsys.readouterr()
        assert "refuses the key in A_KEY: " in said.out
        assert "sk-a-wrong-one" not in said.out + said.err
        monkeypatch.setenv("A_KEY", KEY)
        assert execute(place, *words(url, *asked), out="secret/outputs") == 0
    said = capsys.readouterr()
    assert KEY not in said.out + said.err
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert len(written) > 5
    assert not [path for path in written if KEY.encode() in path.read_bytes()]


def test_a_server_that_is_not_there_costs_one_line_with_what_to_do(place, capsys):  # noqa: F811
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    store = f"store='{place / 'stores/nowhere'}'"
    assert execute(place, *words(url, store, "engine.retries=1")) == 1
    assert "does not answer" in capsys.readouterr().out


@pytest.mark.slow
def test_a_stop_waits_for_the_calls_on_their_way_and_keeps_them(place, local):  # noqa: F811
    """As real a stop as there is: SIGTERM to the process while the server answers its second call slowly."""
    served = Served(place / "weights", ("", "", "slow"))
    store = place / "stores/stopped"
    with serving(served) as url:
        asked = words(url, f"store='{store}'", "engine.concurrency=1", "engine.timeout_s=60")
        process = warm.started("src.run", *line.words(place, *asked), cwd=ROOT)
        until(lambda: not served.faults, process)
        process.terminate()
        _, said = process.communicate(timeout=60)
        assert process.returncode == AGAIN, said
        kept = len(Store(store))
        assert kept == sum(served.delivered.values()) > 0
        assert execute(place, *asked, out="outputs/stopped") == 0
    assert set(served.delivered.values()) == {1}
    same(answers(place / "outputs/stopped"), local)


def until(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def test_rate_limits_space_the_starts_of_calls(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda s: clock.__setitem__(0, clock[0] + s))
    pace = Pace(calls=60, tokens=600)
    starts = []
    for tokens in (5, 20, 5, 5):
        pace.wait(tokens)
        starts.append(clock[0] - 100)
    assert starts == pytest.approx([0, 1, 3, 4])  # a second a call, or a second for ten tokens


def test_switches_that_need_token_ids_are_refused(place):  # noqa: F811
    with pytest.raises(UserError, match="compat=fixed"):
        execute(place, *words("http://127.0.0.1:9/v1", "compat=published"))


@pytest.mark.parametrize("wrong", ["base_url=localhost", "concurrency=0", "retries=-1", "calls_per_minute=0"])
def test_a_setting_that_cannot_be_is_said_before_any_call(place, wrong):  # noqa: F811
    with pytest.raises(UserError, match=wrong):
        execute(place, *words("http://127.0.0.1:9/v1", f"engine.{wrong}"))


def test_vllm_takes_top_k_from_the_generation(place):  # noqa: F811
    found = grid.composed_run(line.words(place, "engine=vllm", "generation.top_k=7"))
    assert (found.serving.kind, found.serving.extra_body["top_k"]) == ("openai", 7)
    assert start.engine_of(found).describe()["identity"].endswith("@http://127.0.0.1:8000/v1")
    assert (found.serving.likelihood_body, found.serving.score_alone) == ({"cache_salt": "{fresh}"}, True)


# ---- a real server with a real model ------------------------------------------------------------------


@pytest.mark.slow
def test_transformers_serve_says_what_the_local_engine_says(tmp_path):
    """20 short prompts, greedily: SmolLM2 behind `transformers serve` and in this process."""
    model = conf.load("model", "smollm2_135m_instruct", Model)
    folder, identity = weights.located(model, ROOT)
    generation = Generation(temperature=0.0, likelihood=False, extra_tokens=8)
    things = ("cork", "stone", "anvil", "feather", "ship", "leaf", "coin", "brick", "bottle", "ice cube")
    texts = [f"Q: Does a {thing} {verb} in water?\nA:" for thing in things for verb in ("sink", "float")]
    prompts = [Prompt(f"{i}", f"{i}", "", text, ("yes", "no"), (), 0, "yes") for i, text in enumerate(texts)]
    requests = [Request(prompt, (1, 2), False) for prompt in prompts]
    with transformers_serve(folder, tmp_path) as url:
        how = Serving(name="openai", kind="openai", base_url=url, model=str(folder), concurrency=1, retries=2)
        engine = OpenAIEngine(how, model, generation, None, keep=lambda asked, reply: "")
        own = LocalEngine(folder, identity, model, generation, conf.load("compat", "fixed", Compat))
        engine.budget = own.budget  # the same number of tokens for both
        said = {r.prompt_id: r.completions for batch in engine.run(requests) for r in batch}
    expected = {r.prompt_id: r.completions for batch in own.run(requests) for r in batch}
    assert len(said) == 20
    for name, completions in expected.items():
        assert {s: c.text for s, c in said[name].items()} == {s: c.text for s, c in completions.items()}


class transformers_serve:
    """The base URL of a `transformers serve` process that has loaded nothing yet."""

    def __init__(self, folder: Path, scratch: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (scratch / "hub").mkdir()
        quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(scratch / "hub"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        tool = Path(sys.executable).with_name("transformers")
        command = [tool, "serve", str(folder), "--host", "127.0.0.1", "--port", str(self.port), "--device", "cpu",
                   "--dtype", "float32"]  # fmt: skip
        self.log = (scratch / "serve.log").open("w+")
        self.process = subprocess.Popen(command, env={**os.environ, **quiet}, stdout=self.log, stderr=self.log)

    def __enter__(self) -> str:
        address = f"http://127.0.0.1:{self.port}"
        until(lambda: healthy(address), self.process)
        return f"{address}/v1"

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.log.close()


def healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as said:
            return bool(said.status == 200)
    except OSError:
        return False


def test_a_login_in_the_servers_address_is_used_and_said_nowhere(place, capsys, monkeypatch):  # noqa: F811
    """Not in the configuration as it is shown, in no record, and in no line about a server that does not answer."""
    monkeypatch.setenv("SERVER", "http://me:can4ry@127.0.0.1:9/v1")
    folder = place / "login"
    asked = [f"store='{folder / 'store'}'", f"tracking.uri='sqlite:///{folder / 'runs.db'}'", "engine.retries=0"]
    assert execute(place, *words("${oc.env:SERVER}", *asked), out="outputs/login") == 1
    said = capsys.readouterr()
    assert "http://127.0.0.1:9/v1 does not answer" in said.out + said.err
    assert "can4ry" not in said.out + said.err
    assert not [p for p in place.rglob("*") if p.is_file() and b"can4ry" in p.read_bytes()]
