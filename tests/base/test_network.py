"""Proxies of the environment: taken where a client can use them, else answered in words that hold no password."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from src.base import network
from src.base.errors import UserError
from src.base.schema import Generation, Model, Serving
from src.engine.job import Request
from src.engine.openai import OpenAIEngine
from src.lab import machine
from src.question.prompts import Prompt
from tests.proxies import Http, Socks5, proxy

PASSWORD = "s3cretpw"
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
PROMPT = Prompt("t/0", "t/0", "", "What floats?", ("a cork",), (" a cork",), 0, "a cork")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without a proxy."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


class Answers(BaseHTTPRequestHandler):
    """The OpenAI protocol's /v1/completions, where every prompt has the same answer."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        body = json.dumps(
            {"choices": [{"index": 0, "text": " a cork", "finish_reason": "stop"}], "usage": usage}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def asked(host: str, port: int) -> str:
    """What a server at this address answers to one prompt."""
    how = Serving(kind="openai", base_url=f"http://{host}:{port}/v1", key=None, retries=0, timeout_s=20)
    engine = OpenAIEngine(how, Model(name="m"), Generation(likelihood=False), None)
    [[result]] = engine.run([Request(PROMPT, (1,), False)])
    return result.completions[1].text


@pytest.mark.parametrize(
    ("handler", "scheme"), [(Http, "http://"), (Http, ""), (Socks5, "socks5://"), (Socks5, "socks5h://")]
)
def test_a_server_is_asked_through_a_proxy(
    port: int, handler: type, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy(handler) as through:
        monkeypatch.setenv("ALL_PROXY", f"{scheme}{through.address}")
        assert asked("model.example", port) == " a cork"
        assert through.asked == ["model.example"]


@pytest.mark.parametrize(("handler", "scheme"), [(Http, "http"), (Socks5, "socks5")])
def test_a_proxy_is_given_its_password(port: int, handler: type, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy(handler) as through:
        monkeypatch.setenv("HTTP_PROXY", f"{scheme}://user:{PASSWORD}@{through.address}")
        assert asked("model.example", port) == " a cork"
        assert len(through.given) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("given", ["", "corp.example", "corp.example,.intern"])
def test_a_server_of_this_machine_is_asked_without_the_proxy(
    host: str, given: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "HTTP_PROXY": "http://127.0.0.1:1",
        "ALL_PROXY": "socks5://127.0.0.1:1",
        "NO_PROXY": given,
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("no_proxy", given)  # so that it is taken back after the test
    network.reach_this_machine(os.environ)
    assert asked(host, port) == " a cork"


@pytest.mark.parametrize(
    ("given", "after"),
    [({}, None), ({"HTTP_PROXY": ""}, None), ({"HTTPS_PROXY": "http://p"}, network.HERE),
     ({"http_proxy": "p:1", "NO_PROXY": "a.b"}, f"a.b,{network.HERE}"),
     ({"ALL_PROXY": "p", "NO_PROXY": "x", "no_proxy": "y"}, f"y,{network.HERE}"),
     ({"ALL_PROXY": "p", "no_proxy": "*"}, "*")],
)  # fmt: skip
def test_no_proxy_names_this_machine_where_there_is_a_proxy(given: dict[str, str], after: str | None) -> None:
    environ = dict(given)
    for _ in range(2):  # a second time changes nothing
        network.reach_this_machine(environ)
    assert environ.get("NO_PROXY") == environ.get("no_proxy") == after if after else environ == given


@pytest.mark.parametrize("value", [
    "socks4://127.0.0.1:1", "socks4a://h:1", "ftp://127.0.0.1:1", "://", "http://127.0.0.1:notaport", "http://[::1",
    f"socks4://user:{PASSWORD}@h:1", f"ftp://user:{PASSWORD}@h:1", f"socks4://user:{PASSWORD}@@h:1",
    f"http://user:{PASSWORD}/x@h:1", f"socks4://user:{PASSWORD}//x@h:1",
])  # fmt: skip
@pytest.mark.parametrize("name", ["HTTPS_PROXY", "all_proxy"])
def test_a_proxy_that_no_client_takes_is_named_without_its_password(
    name: str, value: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=rf"{name.upper()}=.*http://proxy\.example:3128") as told:
        asked("model.example", port)
    assert PASSWORD not in str(told.value)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    check = machine.hub()  # what `python -m src.plan` shows of it
    assert PASSWORD not in str(check)


def test_the_machine_check_names_a_proxy_that_no_client_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HTTPS_PROXY", f"socks4://user:{PASSWORD}@h:1")
    check = machine.hub()
    assert (check.state, "HTTPS_PROXY=socks4://h:1" in check.todo) == ("not asked", True)


@pytest.mark.parametrize("file", ["/nonexistent/ca.pem", "README.md"])
def test_a_file_of_certificates_that_is_none_is_named(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", file)
    with pytest.raises(UserError, match=r"SSL_CERT_FILE .* cannot be used"):
        network.check_proxies()
