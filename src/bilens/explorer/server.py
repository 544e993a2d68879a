"""One page on this machine alone: a small server at 127.0.0.1 that knows a single file."""

from __future__ import annotations

import contextlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from bilens.errors import BilensError, StoreError
from bilens.files import read_bytes

ADDRESS = "127.0.0.1"
"""Where the server listens: nobody else on the network can reach it."""


class PageServer(ThreadingHTTPServer):
    """Serves one file at `/`, to requests that name this machine, and nothing else.

    No path leads to a file: `/` is the page and every other path is refused, so that there is nothing to climb out of.
    A request whose Host is not this server's own is refused too: a page of another site could otherwise point its own
    name at 127.0.0.1 and read the answer (DNS rebinding).

    Args:
        path: the file, read anew for each request; port: 0 for any that is free.

    Raises:
        BilensError: a port that is taken, not allowed or out of range. StoreError: the file cannot be read.
    """

    daemon_threads = True

    def __init__(self, path: str | Path, port: int = 0) -> None:
        self.page = Path(path)
        read_bytes(self.page, 1)
        try:
            super().__init__((ADDRESS, port), _Handler)
        except (OSError, OverflowError) as error:
            raise BilensError(
                f"port {port} ({getattr(error, 'strerror', None) or error})",
                "a free port from 0 to 65535",
                "name another --port; 0 takes any that is free",
            ) from error

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{ADDRESS}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD for `/`."""

    server: PageServer
    server_version = "bilens"
    sys_version = ""

    def do_GET(self) -> None:
        content = self._head()
        if content is not None:
            with contextlib.suppress(ConnectionError):  # whoever asked has gone
                self.wfile.write(content)

    def do_HEAD(self) -> None:
        self._head()

    def _head(self) -> bytes | None:
        port = self.server.server_port
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or hosts[0] not in (f"{ADDRESS}:{port}", f"localhost:{port}"):
            self.send_error(403, "This server answers to its own name alone")
            return None
        if self.path.partition("?")[0] != "/":
            self.send_error(404, "There is one page, at /")
            return None
        try:
            content = read_bytes(self.server.page)
        except StoreError:
            self.send_error(503, "The page cannot be read: write it again")
            return None
        self.send_response(200)
        for name, value in (
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Length", str(len(content))),
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", "frame-ancestors 'none'"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
        ):
            self.send_header(name, value)
        self.end_headers()
        return content

    def handle(self) -> None:
        """A connection that ends early is nobody's error."""
        with contextlib.suppress(ConnectionError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""
