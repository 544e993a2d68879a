"""The small server, asked by raw sockets: one page, this machine, its own name, and no way to any other file."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bilens.errors import BilensError, StoreError
from bilens.explorer import PageServer
from messages import refuses

PAGE = b"<!doctype html><title>page</title>"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PageServer]:
    (tmp_path / "page.html").write_bytes(PAGE)
    (tmp_path / "secret.txt").write_text("secret")
    with PageServer(tmp_path / "page.html") as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def raw(server: PageServer, *lines: str) -> bytes:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=5) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer


def host(server: PageServer, name: str = "127.0.0.1") -> str:
    return f"Host: {name}:{server.server_port}"


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_the_page_is_served_to_this_machine(server: PageServer, name: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    connection.request("GET", "/?x=1", headers={"Host": f"{name}:{server.server_port}"})
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, PAGE)
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    connection.request("HEAD", "/", headers={"Host": f"{name}:{server.server_port}"})
    answer = connection.getresponse()
    assert (answer.status, answer.read(), answer.headers["Content-Length"]) == (200, b"", str(len(PAGE)))
    connection.close()


def test_it_listens_on_this_machine_alone(server: PageServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_port}/"


@pytest.mark.parametrize(
    "path",
    [
        "/secret.txt",
        "/../secret.txt",
        "/..%2fsecret.txt",
        "/%2e%2e/secret.txt",
        "//secret.txt",
        "/./page.html",
        "/..\\secret.txt",
        "secret.txt",
        "/page.html",
        "file:///etc/passwd",
        "http://127.0.0.1/secret.txt",
        "/\x00",
    ],
)
def test_no_path_leads_anywhere_else(server: PageServer, path: str) -> None:
    answer = raw(server, f"GET {path} HTTP/1.1", host(server))
    assert answer.split(b"\r\n")[0].split()[1] in (b"404", b"400")
    assert b"secret\n" not in answer
    assert b"root:" not in answer
    assert PAGE not in answer


@pytest.mark.parametrize(
    "headers",
    [
        [],
        ["Host: evil.example"],
        ["Host: 127.0.0.1"],
        ["Host: 127.0.0.1:1"],
        ["Host: 127.0.0.1.evil.example:{port}"],
        ["Host: localhost.evil.example"],
        ["Host: [::1]:{port}"],
        ["Host: 127.0.0.1:{port}", "Host: evil.example"],
        ["Host: "],
    ],
)
def test_a_foreign_or_missing_host_is_refused(server: PageServer, headers: list[str]) -> None:
    lines = [header.format(port=server.server_port) for header in headers]
    answer = raw(server, "GET / HTTP/1.1", *lines)
    assert answer.split(b"\r\n")[0].split()[1] == b"403"
    assert PAGE not in answer


def test_whoever_leaves_early_and_a_page_that_is_gone_are_no_errors(server: PageServer, capfd) -> None:
    for _ in range(3):
        connection = socket.create_connection(("127.0.0.1", server.server_port), timeout=5)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closes with a reset
        connection.sendall(f"GET / HTTP/1.1\r\n{host(server)}\r\n\r\n".encode())
        connection.close()
    server.page.unlink()
    assert raw(server, "GET / HTTP/1.1", host(server)).split(b"\r\n")[0].split()[1] == b"503"
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_can_be_sent(server: PageServer, method: str) -> None:
    answer = raw(server, f"{method} / HTTP/1.1", host(server))
    assert answer.split(b"\r\n")[0].split()[1] == b"501"


def test_a_port_or_file_that_cannot_be_had_is_told(server: PageServer, tmp_path: Path) -> None:
    with refuses(BilensError, f"port {server.server_port}", "--port"):
        PageServer(tmp_path / "page.html", server.server_port)
    for port in (-1, 70000):
        with refuses(BilensError, f"port {port}"):
            PageServer(tmp_path / "page.html", port)
    with refuses(StoreError, "on reading"):
        PageServer(tmp_path / "nowhere.html")
