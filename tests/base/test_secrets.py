"""A password that stands in an address or in the environment is said nowhere."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.base import grid
from src.base.errors import UserError
from src.base.logins import USER_OF_SERVER, without_login
from src.base.secrets import address_of, shown
from src.base.values import suits

CANARY = "can4ry"
PASSWORDS = st.text(min_size=1, max_size=12).map(lambda text: f"{CANARY}{text}")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=6), PASSWORDS)
def test_a_login_of_an_address_is_taken_off_whole_and_reaches_mlflow_as_it_was(user: str, password: str) -> None:
    environment: dict[str, str] = {}
    uri = (
        f"https://{quote(user, safe='', errors='replace')}:{quote(password, safe='', errors='replace')}@host:5000/team"
    )
    assert without_login(uri, environment) == "https://host:5000/team"
    same = [text.encode(errors="replace").decode() for text in (user, password)]
    assert [environment[name] for name in USER_OF_SERVER] == same
    assert shown(f"API request to {uri}/api failed") == "API request to https://host:5000/team/api failed"


@pytest.mark.parametrize("password", ["p@ss", "p/ss", "p ss", "p?ss", "p#ss", "p:ss", "p@/ ?#s"])
def test_a_password_that_no_address_may_hold_is_taken_off_whole_too(password: str) -> None:
    assert address_of(f"http://me:{password}@host/team") == ("http://host/team", "me", password)


@pytest.mark.parametrize(
    "uri",
    ["http://host:5000/team", "http://host/a@b", "http://host:5000/a@b", "sqlite:////data/me@work/mlflow.db", "x@y"],
)
def test_an_address_without_a_login_stays_as_it_is(uri: str) -> None:
    environment: dict[str, str] = {}
    assert without_login(uri, environment) == uri
    assert environment == {}


@pytest.mark.parametrize(
    "text",
    [
        f"http://me:{CANARY}@host/api: refused", f"mysql://me:{CANARY}@host/db", f"proxy URL socks5://:{CANARY}@host:1080",
        f"postgresql://host/db?user=me&password={CANARY}", f"https://host/?access_token={CANARY}&x=1",
        f"Invalid header value: 'Bearer {CANARY}\\n{CANARY}'", f"two: http://a:{CANARY}@b, http://c:{CANARY}@d/e",
    ],
)  # fmt: skip
def test_a_secret_is_left_out_of_what_is_said(text: str) -> None:
    assert CANARY not in shown(text)
    assert CANARY not in str(UserError(text))
    assert "host" in shown(text) or "Invalid" in text or "two" in text


def test_a_password_of_the_environment_is_left_out_of_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.setenv(name, f"{CANARY}-{name}")
        assert CANARY not in shown(f"the server answered {CANARY}-{name}")


def test_overrides_that_hydra_writes_down_hold_no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in USER_OF_SERVER:
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://other:{CANARY}@host")
    words = grid.checked_overrides([f"tracking.uri='http://me:{CANARY}@host/team'", "limit=8"])
    assert words == ["tracking.uri='http://host/team'", "limit=8"]
    import os

    assert os.environ["MLFLOW_TRACKING_URI"] == "http://host"
    assert [os.environ[name] for name in USER_OF_SERVER] == ["me", CANARY]


@pytest.mark.parametrize(
    ("word", "remedy"),
    [
        (f"engine.base_url=http://me:{CANARY}@host/v1", "export SERVER=..."),
        (f"engine.base_url=http://{CANARY}@host/v1", "export SERVER=..."),  # a token in the place of a user
        (f"++engine.base_url='http://host/v1?api_key={CANARY}'", "export SERVER=..."),
        (f"tracking.uri=http://host/team?access_token={CANARY}", "MLFLOW_TRACKING_TOKEN"),
        (f"tracking.uri=postgresql://me:{CANARY}@host/db", "~/.pgpass"),
    ],
)
def test_a_login_that_no_variable_takes_is_refused_unsaid(word: str, remedy: str) -> None:
    with pytest.raises(UserError) as error:
        grid.checked_overrides([word])
    assert remedy in str(error.value)
    assert CANARY not in str(error.value)


def test_an_address_of_the_wrong_kind_is_refused_without_its_password() -> None:
    with pytest.raises(UserError) as error:
        suits("engine.base_url", f"ftp://me:{CANARY}@host")
    assert CANARY not in str(error.value)
