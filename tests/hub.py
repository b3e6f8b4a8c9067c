"""As much of the hub's HTTP interface as huggingface_hub asks for, on loopback, with the faults a real one shows."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    folder: Path
    commit: str
    gated: bool = False


@dataclass
class Hub:
    """What is served, how it misbehaves, and what was asked."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    token: str = "hf_good"
    cut: set[str] = field(default_factory=set)  # files whose first answer breaks off half way
    stall: str | None = None  # a file whose answer stops half way until `go`
    stalled: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # (file, Range) of every download

    def files(self, name: str) -> list[Path]:
        return sorted(path for path in self.repositories[name].folder.iterdir() if path.is_file())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        owner = next((name for name in self.hub.repositories if f"{name}/" in f"{path}/"), None)
        token = self.headers.get("Authorization")
        if token and token != f"Bearer {self.hub.token}":
            self.refuse(401, message="Invalid credentials in Authorization header")
        elif owner is None:
            self.refuse(401 if token is None else 404, "RepoNotFound")
        elif path.startswith("api/"):
            self.api(owner, path.split(f"{owner}", 1)[1].strip("/").split("/"))
        else:
            self.download(owner, *path.split("/resolve/", 1)[1].split("/", 1))

    def known(self, owner: str, revision: str) -> bool:
        return revision in ("main", self.hub.repositories[owner].commit)

    def api(self, owner: str, rest: list[str]) -> None:
        repository = self.hub.repositories[owner]
        kind, revision = [*rest, "main"][:2] if rest != [""] else ("revision", "main")
        if not self.known(owner, revision):
            self.refuse(404, "RevisionNotFound")
        elif kind == "tree":
            files = [(p, p.read_bytes()) for p in self.hub.files(owner)]
            self.answer([{"type": "file", "path": p.name, "size": len(b), "oid": etag(b)} for p, b in files])
        else:
            siblings = [{"rfilename": p.name} for p in self.hub.files(owner)]
            self.answer({"id": owner, "sha": repository.commit, "siblings": siblings, "gated": repository.gated})

    def download(self, owner: str, revision: str, name: str) -> None:
        repository = self.hub.repositories[owner]
        if repository.gated and self.headers.get("Authorization") is None:
            return self.refuse(401, "GatedRepo")
        if not self.known(owner, revision):
            return self.refuse(404, "RevisionNotFound")
        if not (repository.folder / name).is_file():
            return self.refuse(404, "EntryNotFound")
        content, wanted = (repository.folder / name).read_bytes(), self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", f'"{etag(content)}"')
        self.send_header("X-Repo-Commit", repository.commit)
        self.send_header("Content-Length", str(len(content) - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            self.hub.asked.append((name, wanted))
            self.send(name, content[start:])

    def send(self, name: str, content: bytes) -> None:
        half = len(content) // 2
        if name in self.hub.cut:
            self.hub.cut.discard(name)
            self.wfile.write(content[:half])
            self.close_connection = True
        elif name == self.hub.stall:
            self.wfile.write(content[:half])
            self.wfile.flush()
            self.hub.stalled.set()
            self.hub.go.wait(60)
            self.close_connection = True
        else:
            self.wfile.write(content)

    def answer(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def refuse(self, status: int, code: str | None = None, message: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message or str(code))
        self.send_header("Content-Length", "0")
        self.end_headers()


def etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub on a free port of 127.0.0.1 until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.go.set()
        server.shutdown()
        server.server_close()
