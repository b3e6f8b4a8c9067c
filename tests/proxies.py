"""Two small proxies on loopback, HTTP and SOCKS5. Every host that they are asked for is this machine."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

HERE = "127.0.0.1"


class Proxy(socketserver.ThreadingTCPServer):
    """asked: the hosts, as they were named to the proxy. given: user and password, where they were sent."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, handler: type[socketserver.BaseRequestHandler]) -> None:
        super().__init__((HERE, 0), handler)
        self.asked: list[str] = []
        self.given: list[str] = []

    @property
    def address(self) -> str:
        return f"{HERE}:{self.server_address[1]}"


class Http(socketserver.StreamRequestHandler):
    """Takes `POST http://host:port/path`, as a proxy of plain HTTP does, and hands it on."""

    server: Proxy

    def handle(self) -> None:
        method, address, version = self.rfile.readline().decode().split()
        at = urlsplit(address)
        self.server.asked.append(str(at.hostname))
        headers = []
        while (line := self.rfile.readline()) not in (b"\r\n", b""):
            if line.lower().startswith(b"proxy-authorization:"):
                self.server.given.append(line.decode().split()[-1])
            elif not line.lower().startswith((b"proxy-", b"connection:")):
                headers.append(line)
        with socket.create_connection((HERE, int(at.port or 80))) as there:
            there.sendall(
                f"{method} {at.path} {version}\r\n".encode() + b"".join(headers) + b"Connection: close\r\n\r\n"
            )
            relay(self.connection, there, self.rfile.peek() if any(b"ontent-" in h for h in headers) else b"")


class Socks5(socketserver.StreamRequestHandler):
    """RFC 1928 with RFC 1929: no authentication, or user and password; CONNECT to a name or an IPv4 address."""

    server: Proxy

    def handle(self) -> None:
        _, count = self.rfile.read(2)
        offered = self.rfile.read(count)
        self.wfile.write(b"\x05\x02" if 2 in offered else b"\x05\x00")
        if 2 in offered:
            self.rfile.read(1)
            user = self.rfile.read(self.rfile.read(1)[0]).decode()
            self.server.given.append(f"{user}:{self.rfile.read(self.rfile.read(1)[0]).decode()}")
            self.wfile.write(b"\x01\x00")
        kind = self.rfile.read(4)[3]
        host = self.rfile.read(self.rfile.read(1)[0]).decode() if kind == 3 else socket.inet_ntoa(self.rfile.read(4))
        port = int.from_bytes(self.rfile.read(2), "big")
        self.server.asked.append(host)
        with socket.create_connection((HERE, port)) as there:
            self.wfile.write(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
            relay(self.connection, there, b"")


def relay(one: socket.socket, two: socket.socket, first: bytes) -> None:
    """Bytes both ways, until either side ends. first: what was read of `one` already."""
    two.sendall(first)

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    forth = threading.Thread(target=pump, args=(one, two), daemon=True)
    forth.start()
    pump(two, one)


@contextmanager
def proxy(handler: type[socketserver.BaseRequestHandler]) -> Iterator[Proxy]:
    with Proxy(handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
