"""A team's MLflow server, started by the lines of docs/tracking.md: PostgreSQL, a login, a path prefix, and https."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import re
import shutil
import signal
import site
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from src.base.files import ROOT

ADMIN, CANARY = "admin", "can4ry"  # every password holds the canary, so that one search finds them all
DATABASE, PASSWORD = f"{CANARY}-of-the-database", f"{CANARY}-of-the-admin"


@dataclass(frozen=True)
class Team:
    """A server that runs. postgres: its address with a login, for pg_dump."""

    uri: str
    folder: Path
    postgres: str


def binaries() -> Path:
    """The folder of PostgreSQL's programs. Skips where there is none, or no user who may run it."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "")]
    if not found[-1].is_file():
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    if os.geteuid() == 0 and not shutil.which("runuser"):
        pytest.skip("PostgreSQL refuses root, and there is no runuser to become another user")
    return found[-1].parent


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def until(wanted: Callable[[], Any], what: str, limit: float = 240) -> Any:
    """The first true value of `wanted`, asked again and again."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if found := wanted():
                return found
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {limit} s")


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL of two empty databases, with a password. Yields its address without a database."""
    programs, port = binaries(), free_port()
    become: list[str] = []
    place = Path(tempfile.mkdtemp(prefix="postgres"))  # not in pytest's folder, which is closed to other users
    if os.geteuid() == 0:
        become = ["runuser", "-u", "postgres", "--"]
        shutil.chown(place, "postgres")
    quiet: dict[str, Any] = {"check": True, "capture_output": True, "cwd": "/"}
    secret = f"printf %s {DATABASE} > {place}/secret && chmod 600 {place}/secret"
    subprocess.run([*become, "sh", "-c", secret], **quiet)
    made = ["-D", str(place / "data"), "-U", "mlflow", "-A", "scram-sha-256", f"--pwfile={place}/secret", "-N"]
    subprocess.run([*become, str(programs / "initdb"), *made], **quiet)
    listen = f"-p {port} -c listen_addresses=127.0.0.1 -c fsync=off -k {place}"
    start = [*become, str(programs / "pg_ctl"), "-D", str(place / "data"), "-w", "-l", str(place / "log")]
    subprocess.run([*start, "-o", listen, "start"], check=True, cwd="/", stdout=subprocess.DEVNULL)
    try:
        for name in ("mlflow", "auth"):
            words = ["-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", "-d", "postgres"]
            subprocess.run(
                ["psql", *words, "-c", f"create database {name}"], env={**os.environ, "PGPASSWORD": DATABASE}, **quiet
            )
        yield f"127.0.0.1:{port}"
    finally:
        subprocess.run([*start, "-m", "immediate", "stop"], cwd="/", capture_output=True, check=False)
        shutil.rmtree(place, ignore_errors=True)


def interpreter(folder: Path) -> str:
    """A Python that has what the server needs beside MLflow. Skips where it cannot be had."""
    if all(map(importlib.util.find_spec, ("psycopg2", "flask_wtf"))):
        return sys.executable
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True)
    packages = next(folder.glob("lib/python3*/site-packages"))
    (packages / "shared.pth").write_text("\n".join(site.getsitepackages()))
    install = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "psycopg2-binary", "Flask-WTF"]
    if (done := subprocess.run(install, capture_output=True, text=True, check=False)).returncode:
        pytest.skip(f"no psycopg2-binary and Flask-WTF here, and none to be had: {done.stderr.strip()[-200:]}")
    return str(folder / "bin/python")


def lines() -> str:
    """The server's lines in docs/tracking.md."""
    page = (ROOT / "docs/tracking.md").read_text()
    return re.findall(r"```bash\n(pip install.*?)```", page, re.DOTALL)[0]


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Team]:
    """The server of docs/tracking.md, its placeholders filled in, on a free port."""
    python = interpreter(folder / "venv")
    with postgres() as database:
        port = free_port()
        script = lines().replace("127.0.0.1:5432", database).replace("--port 5000", f"--port {port}")
        script = script.replace("ADMIN_PASSWORD=ADMIN_PASSWORD", f"ADMIN_PASSWORD={PASSWORD}")
        script = script.replace(":PASSWORD@", f":{DATABASE}@").replace("SOME_LONG_RANDOM_TEXT", f"{CANARY}-of-sessions")
        script = re.sub(r"^pip install.*\n", "", script).replace("\nmlflow server", f"\nexec {python} -m mlflow server")
        place = folder / "server"
        place.mkdir()
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (place / "log").open("w") as log:
            running = subprocess.Popen(
                ["bash", "-ec", script], cwd=place, env={**os.environ, **quiet}, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        try:
            uri = f"http://127.0.0.1:{port}/team"
            until(lambda: urllib.request.urlopen(f"{uri}/health", timeout=20).status == 200, "the server")
            yield Team(uri, place, f"postgresql://mlflow:{DATABASE}@{database}/mlflow")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
            running.wait(timeout=30)


@contextlib.contextmanager
def https(team: Team) -> Iterator[tuple[str, Path]]:
    """A reverse proxy with a self-signed certificate before the server. Yields (its address, the certificate)."""
    key, certificate = team.folder / "key.pem", team.folder / "certificate.pem"
    asked = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    asked += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    if not shutil.which("openssl"):
        pytest.skip("no openssl here to sign a certificate")
    subprocess.run(["openssl", *asked], check=True, capture_output=True)
    behind = team.uri.split("/")[2]

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            connection = http.client.HTTPConnection(behind, timeout=60)
            given = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
            connection.request(self.command, self.path, self.rfile.read(length), {**given, "Host": behind})
            answer = connection.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    proxy.socket = context.wrap_socket(proxy.socket, server_side=True)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield f"https://127.0.0.1:{proxy.server_address[1]}/team", certificate
    finally:
        proxy.shutdown()
        proxy.server_close()
