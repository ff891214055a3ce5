"""Mistakes in an address, in the files for TLS, and in ssh are named."""

from __future__ import annotations

import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from sampan.client.engine import ConnectionFailed, EngineClient
from sampan.client.transport import Address, Tls
from tests.api import certificates

RESOLVE = "Failed to initialize: unable to resolve docker endpoint: "


def failure(url: str, tls: Tls | None = None) -> str:
    with pytest.raises(ConnectionFailed) as caught:
        EngineClient(Address(url), tls=tls).ping()
    return caught.value.message


def made(directory: Path) -> dict[str, str]:
    certificates.make(directory)
    return {
        kind: str(directory / f"{name}.pem") for kind, name in (("ca", "ca"), ("cert", "client"), ("key", "client-key"))
    }


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("foo://x", "invalid bind address format: foo://x"),
        ("tcp://a:b:c", 'parse "tcp://a:b:c": invalid port ":c" after host'),
        ("tcp://h:x", 'parse "tcp://h:x": invalid port ":x" after host'),
        ("tcp://[::1]:x", 'parse "tcp://[::1]:x": invalid port ":x" after host'),
    ],
)
def test_a_malformed_address(url: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Address(url)
    assert str(caught.value) == message


@pytest.mark.parametrize("which", ["ca", "cert", "key"])
def test_a_missing_file_is_named_before_anything_is_dialled(which: str, tmp_path: Path) -> None:
    files = made(tmp_path)
    files[which] = "/nope/x.pem"
    assert (
        failure("tcp://127.0.0.1:1", Tls(ca=files["ca"], cert=files["cert"], key=files["key"]))
        == RESOLVE + "open /nope/x.pem: no such file or directory"
    )


@pytest.mark.parametrize("which", ["ca", "cert", "key"])
def test_a_file_that_is_no_pem_is_named(which: str, tmp_path: Path) -> None:
    files = made(tmp_path)
    files[which] = str(tmp_path / "nonsense.pem")
    Path(files[which]).write_text("nonsense")
    message = failure("tcp://127.0.0.1:1", Tls(ca=files["ca"], cert=files["cert"], key=files["key"]))
    assert message.startswith(RESOLVE + "could not load the ") and files[which] in message, message


def test_a_certificate_without_its_key(tmp_path: Path) -> None:
    cert = made(tmp_path)["cert"]
    assert failure("tcp://127.0.0.1:1", Tls(cert=cert, verify=False)) == (
        f"{RESOLVE}{cert} is of no use without its key"
    )


def test_a_server_without_tls() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        assert failure(url, Tls(verify=False)) == (
            f"error during connect: {url}: http: server gave HTTP response to HTTPS client"
        )
        thread.join()


@pytest.mark.parametrize(("script", "how"), [("exit 255", "exit status 255"), ("kill -9 $$", "signal 9")])
def test_ssh_that_ends_tells_its_status(script: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text(f"#!/bin/sh\n{script}\n")
    ssh.chmod(ssh.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    message = failure("ssh://user@host:22")
    assert message.startswith(
        "error during connect: HEAD /_ping: command [ssh -o ConnectTimeout=30 -T -p 22 -- user@host"
    )
    assert f"has exited with {how}, make sure the URL is valid" in message


def test_without_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert failure("ssh://h") == 'error during connect: ssh://h: exec: "ssh": no such file or directory'
