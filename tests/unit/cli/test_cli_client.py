"""The client below the commands: HTTP on a socket, hijacked streams, terminals, endpoints. Real sockets, no engine."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sampan.cli import endpoint, flags, streams, table, tty
from sampan.cli.config import Config, ContextError
from sampan.cli.context import store
from sampan.client.engine import ConnectionFailed, EngineClient, UpgradedStream, query_string
from sampan.client.http import ConnectionClosed, HttpConnection, MalformedResponse, Response
from sampan.client.transport import Address, split_host_port
from sampan.errors import Conflict, NotFound

Serve = Callable[..., EngineClient]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start a server that answers one connection after the other, each with a list of raw responses."""
    listener = socket.socket(socket.AF_UNIX)
    path = str(tmp_path / "s")
    listener.bind(path)
    listener.listen()
    asked: list[bytes] = []
    engines: list[EngineClient] = []

    def start(*connections: list[bytes]) -> EngineClient:
        def work() -> None:
            for answers in connections:
                with listener.accept()[0] as sock:
                    for answer in answers:
                        data = b""
                        while b"\r\n\r\n" not in data:
                            data += sock.recv(65536)
                        asked.append(data)
                        sock.sendall(answer)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        engine = EngineClient(Address(f"unix://{path}"), api_version="1.51")
        engine.asked = asked  # type: ignore[attr-defined]
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        engine.close()
    listener.close()


def answer(status: str, body: bytes, *headers: str) -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers])
    return head.encode() + b"\r\n\r\n" + body


def test_one_connection_serves_many_calls(serve: Serve) -> None:
    engine = serve([answer("200 OK", b'{"a":1}'), answer("204 No Content", b""), answer("200 OK", b"[]")])
    assert engine.get("/x", all=True, filters={"a": {"b": True}}) == {"a": 1}
    assert engine.post("/y") is None
    assert engine.get("/z") == []
    first = engine.asked[0]  # type: ignore[attr-defined]
    assert first.startswith(b"GET /v1.51/x?all=1&filters=%7B%22a%22%3A%7B%22b%22%3Atrue%7D%7D HTTP/1.1\r\n")


def test_an_idle_connection_that_the_server_closed_is_opened_again(serve: Serve) -> None:
    engine = serve([answer("200 OK", b"1")], [answer("200 OK", b"2")])
    assert (engine.get("/x"), engine.get("/x")) == (1, 2)


def test_chunked_bodies_with_odd_cuts(serve: Serve) -> None:
    body = b"5\r\n[1,2,\r\n3;ext=1\r\n 3]\r\n0\r\nTrailer: x\r\n\r\n"
    engine = serve([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body, answer("200 OK", b"4")])
    assert engine.get("/x") == [1, 2, 3]
    assert engine.get("/x") == 4


def test_errors_carry_the_engines_words(serve: Serve) -> None:
    engine = serve(
        [answer("404 Not Found", b'{"message":"No such container: x"}'), answer("409 Conflict", b"plain\n")],
    )
    with pytest.raises(NotFound, match="No such container: x"):
        engine.get("/x")
    with pytest.raises(Conflict, match=r"^plain$"):
        engine.get("/x")


def test_nobody_answers(tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/nothing"
    with pytest.raises(ConnectionFailed) as caught:
        EngineClient(Address(url)).get("/x")
    assert caught.value.message == f"Cannot connect to the Docker daemon at {url}. Is the docker daemon running?"


@pytest.mark.parametrize(("offered", "used"), [("1.51", "1.51"), ("1.99", "1.51"), ("1.40", "1.40"), ("1.12", "1.24")])
def test_the_lower_version_is_used(serve: Serve, offered: str, used: str) -> None:
    engine = serve([answer("200 OK", b"", f"Api-Version: {offered}").replace(b"Content-Length: 0\r\n", b"")])
    engine._version = ""
    assert engine.api_version == used


def test_a_response_that_stops_short_is_an_error() -> None:
    for raw in (
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    ):
        ours, theirs = socket.socketpair()
        theirs.sendall(raw)
        theirs.close()
        with pytest.raises(MalformedResponse):
            HttpConnection(ours).response().read()
        ours.close()


def test_garbage_is_no_response() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(b"SSH-2.0-OpenSSH\r\n\r\n")
    with pytest.raises(MalformedResponse, match="malformed HTTP response"):
        HttpConnection(ours).response()
    theirs.close()
    with pytest.raises(ConnectionClosed):
        HttpConnection(ours).response()
    ours.close()


def test_a_header_cannot_be_smuggled() -> None:
    ours, theirs = socket.socketpair()
    with pytest.raises(ValueError, match="line break in header"):
        HttpConnection(ours).request("GET", "/", [("X", "a\r\nY: b")])
    ours.close()
    theirs.close()


def test_query_strings() -> None:
    assert (
        query_string({"a": True, "b": False, "c": None, "d": ["x", "y"], "e": "ü&="}) == "?a=1&d=x&d=y&e=%C3%BC%26%3D"
    )
    assert query_string({"a": None}) == ""


@pytest.mark.parametrize(
    ("target", "parts"),
    [("h:1", ("h", 1)), ("h", ("h", 9)), ("[::1]:2", ("::1", 2)), ("[::1]", ("::1", 9)), (":3", ("127.0.0.1", 3))],
)
def test_hosts_and_ports(target: str, parts: tuple[str, int]) -> None:
    assert split_host_port(target, 9) == parts


@pytest.mark.parametrize("url", ["nope", "/path"])
def test_an_address_needs_a_scheme(url: str) -> None:
    with pytest.raises(ValueError, match="unable to parse docker host"):
        Address(url)


def test_an_ssh_host_is_no_option() -> None:
    with pytest.raises(ValueError, match="invalid ssh host"):
        Address("ssh://-oProxyCommand=x").connect()


# -- streams ---------------------------------------------------------------------------------------------------------


def frame(stream: int, data: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


def read_all(fd: int) -> bytes:
    out = b""
    while data := os.read(fd, 65536):
        out += data
    os.close(fd)
    return out


@pytest.mark.parametrize("step", [1, 3, 7, 1000])
def test_frames_cut_anywhere_come_apart(step: int) -> None:
    out, err = os.pipe(), os.pipe()
    demultiplexer = streams.Demultiplexer(raw=False, stdout=out[1], stderr=err[1])
    data = frame(1, b"one ") + frame(2, b"ERR") + frame(1, b"") + frame(1, b"two")
    for position in range(0, len(data), step):
        demultiplexer.feed(data[position : position + step])
    os.close(out[1])
    os.close(err[1])
    assert read_all(out[0]) == b"one two" and read_all(err[0]) == b"ERR"


def test_a_stream_nobody_wants_is_thrown_away_and_an_unknown_one_is_an_error() -> None:
    demultiplexer = streams.Demultiplexer(raw=False, stdout=None, stderr=None)
    demultiplexer.feed(frame(1, b"x") + frame(2, b"y"))
    with pytest.raises(ValueError, match="Unrecognized input header: 9"):
        demultiplexer.feed(frame(9, b"z"))


def test_much_input_against_much_output_does_not_lock_up() -> None:
    """The peer answers every byte before it reads on: a copy that writes without reading would wait for ever."""
    ours, theirs = socket.socketpair()
    size = 4 << 20
    stdin, stdout = os.pipe(), os.pipe()

    def echo() -> None:
        while data := theirs.recv(65536):
            theirs.sendall(data)
        theirs.close()

    def feed() -> None:
        sent = 0
        while sent < size:
            sent += os.write(stdin[1], b"x" * min(65536, size - sent))
        os.close(stdin[1])

    received: list[bytes] = []
    workers = [threading.Thread(target=work) for work in (echo, feed, lambda: received.append(read_all(stdout[0])))]
    for worker in workers:
        worker.start()
    stream = UpgradedStream(Response(HttpConnection(ours), "GET", 101, {}))
    assert not streams.copy(stream, streams.Demultiplexer(raw=True, stdout=stdout[1]), stdin=stdin[0])
    os.close(stdout[1])
    for worker in workers:
        worker.join()
    stream.close()
    os.close(stdin[0])
    assert len(received[0]) == size


def test_detach_keys_end_the_copy_and_are_not_sent() -> None:
    ours, theirs = socket.socketpair()
    stdin = os.pipe()
    os.write(stdin[1], b"ab\x10c\x10\x11d")
    stream = UpgradedStream(Response(HttpConnection(ours), "GET", 101, {}))
    keys = tty.DetachKeys(tty.parse_keys(tty.DEFAULT_DETACH))
    out = streams.Demultiplexer(raw=True, stdout=None)
    assert streams.copy(stream, out, stdin=stdin[0], detach=keys)
    stream.close()
    received = b""
    while data := theirs.recv(100):
        received += data
    theirs.close()
    assert received in (b"", b"ab\x10c")  # what was typed before may or may not have gone
    for fd in stdin:
        os.close(fd)


def test_signals_are_handed_on_while_the_copy_waits() -> None:
    import signal

    ours, theirs = socket.socketpair()
    got: list[int] = []

    def on_signal(number: int) -> None:
        got.append(number)
        theirs.close()  # the container ends

    with tty.Signals([signal.SIGUSR1]) as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        stream = UpgradedStream(Response(HttpConnection(ours), "GET", 101, {}))
        out = streams.Demultiplexer(raw=True, stdout=None)
        assert not streams.copy(stream, out, signals=signals, on_signal=on_signal)
        stream.close()
    assert got == [signal.SIGUSR1]


@pytest.mark.parametrize(
    ("text", "keys"), [("ctrl-p,ctrl-q", b"\x10\x11"), ("a,ctrl-@,ctrl-_", b"a\x00\x1f"), ("ctrl-[", b"\x1b")]
)
def test_key_sequences(text: str, keys: bytes) -> None:
    assert tty.parse_keys(text) == keys


@pytest.mark.parametrize("text", ["", "ctrl-", "ctrl-1", "ab"])
def test_bad_key_sequences(text: str) -> None:
    with pytest.raises(ValueError, match="Unknown character"):
        tty.parse_keys(text)


def test_signals_become_bytes_and_are_put_back() -> None:
    import signal

    before = signal.getsignal(signal.SIGUSR1)
    with tty.Signals([signal.SIGUSR1]) as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.take() == bytes([signal.SIGUSR1])
    assert signal.getsignal(signal.SIGUSR1) == before


# -- endpoints -------------------------------------------------------------------------------------------------------


def resolved(tmp_path: Path, *argv: str) -> endpoint.EngineEndpoint:
    options, _ = flags.parse(flags.declared(table.GLOBAL_FLAGS), list(argv))
    return endpoint.resolve(options, Config(str(tmp_path)))


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith(("DOCKER_", "SAMPAN_")):
            monkeypatch.delenv(name)
    return monkeypatch


def test_the_order_of_choices(tmp_path: Path, clean: pytest.MonkeyPatch) -> None:
    meta = {"Name": "far", "Metadata": {}, "Endpoints": {"docker": {"Host": "tcp://far:2376", "SkipTLSVerify": True}}}
    store.save(str(tmp_path), "far", meta, {"ca.pem": b"CA"})
    (tmp_path / "config.json").write_text('{"currentContext": "far"}')
    assert resolved(tmp_path).context == "far"
    far = resolved(tmp_path)
    assert (
        far.address.target == "far:2376"
        and far.tls is not None
        and not far.tls.verify
        and far.tls.ca.endswith("ca.pem")
    )
    clean.setenv("DOCKER_HOST", "tcp://docker:1")
    assert resolved(tmp_path).address.url == "tcp://docker:1"
    clean.setenv("SAMPAN_HOST", "unix:///sampan")
    assert resolved(tmp_path).address.url == "unix:///sampan"
    assert resolved(tmp_path, "-c", "far").context == "far"
    assert resolved(tmp_path, "-H", "unix:///flag").address.url == "unix:///flag"
    with pytest.raises(ContextError, match="cannot specify both --host and --context"):
        resolved(tmp_path, "-H", "unix:///flag", "-c", "far")
    with pytest.raises(ContextError, match="context not found"):
        resolved(tmp_path, "-c", "near")


def test_tls_by_environment(tmp_path: Path, clean: pytest.MonkeyPatch) -> None:
    clean.setenv("DOCKER_HOST", "tcp://h:1")
    assert resolved(tmp_path).tls is None
    clean.setenv("DOCKER_TLS_VERIFY", "1")
    clean.setenv("DOCKER_CERT_PATH", "/certs")
    tls = resolved(tmp_path).tls
    assert tls is not None and (tls.ca, tls.cert, tls.key, tls.verify) == (
        "/certs/ca.pem",
        "/certs/cert.pem",
        "/certs/key.pem",
        True,
    )


def test_without_anything_it_is_dockers_socket(tmp_path: Path, clean: pytest.MonkeyPatch) -> None:
    clean.setattr(endpoint, "SAMPAN_SOCKET", str(tmp_path / "none"))
    assert resolved(tmp_path).address.url == "unix:///var/run/docker.sock"
    clean.setattr(endpoint, "SAMPAN_SOCKET", str(tmp_path))
    assert resolved(tmp_path).address.url == f"unix://{tmp_path}"


def test_the_configuration_is_replaced_whole_and_kept_private(tmp_path: Path) -> None:
    config = Config(str(tmp_path / "new"))
    config.data["auths"] = {"r": {"auth": "eA=="}}
    config.save()
    assert os.stat(config.path).st_mode & 0o777 == 0o600 and os.listdir(config.directory) == ["config.json"]
    assert Config(config.directory).data == config.data


@pytest.mark.parametrize("name", ["", "default", "a", "-a", "a/b", "../x", "a b"])
def test_context_names(name: str) -> None:
    with pytest.raises(ContextError):
        store.check_name(name)
