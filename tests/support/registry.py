"""Registries for tests: Debian's docker-registry, a token server, and one that lies. All on loopback, gone at the end.

The liar is built on the standard library's server, so that it shares no code with the client under test.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.server
import json
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.api import certificates
from tests.support.tars import tar_of

PROGRAM = "docker-registry"
USER, PASSWORD = "bob", "correct horse"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def header(username: str = USER, password: str = PASSWORD) -> dict[str, str]:
    """X-Registry-Auth for these credentials."""
    document = json.dumps({"username": username, "password": password}).encode()
    return {"X-Registry-Auth": base64.urlsafe_b64encode(document).decode()}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Debian:
    """docker-registry over `directory`; `auth` is its configuration's section, `tls` a directory of certificates."""

    def __init__(self, directory: Path, *, auth: dict[str, Any] | None = None, tls: Path | None = None) -> None:
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.log = directory / "registry.log"
        http_: dict[str, Any] = {"addr": self.host}
        if tls is not None:
            http_["tls"] = {"certificate": str(tls / "server.pem"), "key": str(tls / "server-key.pem")}
        config = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": False}},
            "storage": {"filesystem": {"rootdirectory": str(directory / "registry")}},
            "http": http_,
            **({"auth": auth} if auth else {}),
        }
        path = directory / "registry.json"
        path.write_text(json.dumps(config))  # JSON is YAML
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([PROGRAM, "serve", str(path)], stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, "docker-registry does not listen"
                time.sleep(0.02)

    def fetches(self) -> list[str]:
        """The paths of all GETs so far, from the access log."""
        lines = self.log.read_text().splitlines()
        return [line.split('"GET ', 1)[1].split(" ", 1)[0] for line in lines if '"GET ' in line]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)


def htpasswd(directory: Path) -> dict[str, Any]:
    """The auth section for USER and PASSWORD."""
    path = directory / "htpasswd"
    line = subprocess.run(["htpasswd", "-Bbn", "-C", "4", USER, PASSWORD], capture_output=True, text=True, check=True)
    path.write_text(line.stdout)
    return {"htpasswd": {"realm": "test", "path": str(path)}}


class Server:
    """A threading HTTP server whose `answer(handler)` decides; requests are remembered as (method, path, headers)."""

    def __init__(self, answer: Callable[[http.server.BaseHTTPRequestHandler], None], tls: Path | None = None) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                outer.requests.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
                try:
                    answer(self)
                except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
                    self.close_connection = True

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                pass

        self._server = Quiet(("127.0.0.1", 0), Handler)
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls / "server.pem", tls / "server-key.pem")
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = int(self._server.server_address[1])
        self.host = f"127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def headers_of(self, name: str) -> list[str]:
        """All values of a header that were received."""
        return [headers[name] for _, _, headers in self.requests if name in headers]


_JSON = {"Content-Type": "application/json"}


def send(
    handler: http.server.BaseHTTPRequestHandler, status: int, body: bytes = b"", headers: dict[str, str] | None = None
) -> None:
    handler.send_response(status)
    for key, value in {**_JSON, "Content-Length": str(len(body)), **(headers or {})}.items():
        handler.send_header(key, value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


class TokenServer:
    """A token service as the distribution project specifies it: anonymous may pull `public/…`, USER everything.

    GET with a password or without; with `offline_token` it gives a refresh token too, which POST takes (OAuth2).
    """

    def __init__(self, directory: Path) -> None:
        certificates.make(directory)
        self._key = serialization.load_pem_private_key((directory / "server-key.pem").read_bytes(), None)
        certificate = x509.load_pem_x509_certificate((directory / "server.pem").read_bytes())
        self._chain = [base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()]
        self.server = Server(self._answer)
        self.scopes: list[str] = []
        self.lifetime_s = 300
        self.good: set[str] = set()  # what `guards` lets through; take tokens away to make them run out
        self.refresh_tokens: set[str] = set()
        self.realm = f"http://{self.server.host}/token"
        self.auth = {
            "token": {
                "realm": self.realm,
                "service": "test-registry",
                "issuer": "test-issuer",
                "rootcertbundle": str(directory / "ca.pem"),
            }
        }

    def close(self) -> None:
        self.server.close()

    def guards(self, handler: http.server.BaseHTTPRequestHandler) -> bool:
        """For a registry that is no Debian: asks for a token. True when it has refused the request."""
        if handler.headers.get("Authorization", "").removeprefix("Bearer ") in self.good:
            return False
        limit = 1 << 16  # an answer that comes before the body was read
        if handler.command in ("PUT", "PATCH", "POST"):
            body(handler, limit)
            handler.close_connection = True
        send(handler, 401, b"", {"WWW-Authenticate": f'Bearer realm="{self.realm}",service="test-registry"'})
        return True

    def _answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        if handler.command == "POST":
            return self._refresh(handler, urllib.parse.parse_qs(body(handler).decode()))
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(handler.path).query)
        given = handler.headers.get("Authorization", "")
        expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if given and given != expected:
            refusal = {"errors": [{"code": "UNAUTHORIZED", "message": "incorrect username or password"}]}
            return send(handler, 401, json.dumps(refusal).encode())
        answer = self._granted(query.get("scope", []), query.get("account", [""])[0], everything=bool(given))
        answer["token"] = answer.pop("access_token")
        if given and query.get("offline_token") == ["true"]:
            answer["refresh_token"] = f"refresh-{time.monotonic_ns()}"
            self.refresh_tokens.add(answer["refresh_token"])
        return send(handler, 200, json.dumps(answer).encode())

    def _refresh(self, handler: http.server.BaseHTTPRequestHandler, form: dict[str, list[str]]) -> None:
        known = form.get("refresh_token", [""])[0] in self.refresh_tokens
        if form.get("grant_type") != ["refresh_token"] or not known or not form.get("client_id"):
            refusal = {"errors": [{"code": "UNAUTHORIZED", "message": "refresh token is not valid"}]}
            return send(handler, 401, json.dumps(refusal).encode())
        answer = self._granted(form.get("scope", [""])[0].split(), USER, everything=True)
        return send(handler, 200, json.dumps({**answer, "refresh_token": form["refresh_token"][0]}).encode())

    def _granted(self, scopes: list[str], subject: str, *, everything: bool) -> dict[str, Any]:
        access = []
        for scope in scopes:
            self.scopes.append(scope)
            kind, name, actions = scope.split(":")
            allowed = actions.split(",") if everything or name.startswith("public/") else []
            access.append({"type": kind, "name": name, "actions": allowed})
        token = self._token(subject, access)
        self.good.add(token)
        return {"access_token": token, "expires_in": self.lifetime_s}

    def _token(self, subject: str, access: list[dict[str, Any]]) -> str:
        now = int(time.time())
        claims = {"iss": "test-issuer", "sub": subject, "aud": "test-registry", "exp": now + 300, "nbf": now - 10,
                  "iat": now, "jti": str(time.monotonic_ns()), "access": access}  # fmt: skip
        parts = [{"typ": "JWT", "alg": "ES256", "x5c": self._chain}, claims]
        signed = ".".join(_url64(json.dumps(part).encode()) for part in parts)
        assert isinstance(self._key, ec.EllipticCurvePrivateKey)
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_url64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _url64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def body(handler: http.server.BaseHTTPRequestHandler, limit: int | None = None) -> bytes:
    """A request's body, chunked or not; at most about `limit` bytes of it."""
    if handler.headers.get("Transfer-Encoding") != "chunked":
        length = int(handler.headers.get("Content-Length", 0))
        return handler.rfile.read(min(length, limit or length))
    out = b""
    while (size := int(handler.rfile.readline(), 16)) and (limit is None or len(out) < limit):
        out += handler.rfile.read(size)
        handler.rfile.readline()
    if size == 0:
        handler.rfile.readline()
    return out


class Receiver:
    """A registry that takes pushes into memory: `blobs` by digest, `manifests` by tag. `cut` breaks PATCHes: the
    number of bytes after which each of the next ones ends without an answer."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.cut: list[int] = []
        self.before: Callable[[http.server.BaseHTTPRequestHandler], bool] | None = None  # True: it has answered
        self._uploads: dict[str, bytes] = {}
        self.server = Server(self._answer)
        self.host = self.server.host

    def close(self) -> None:
        self.server.close()

    def _answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        if self.before is not None and self.before(handler):
            return None
        parts = urllib.parse.urlsplit(handler.path)
        name, method = parts.path.rpartition("/")[2], handler.command
        here = {"Location": parts.path}
        if "/uploads/" in parts.path:
            return self._upload(handler, method, name, urllib.parse.parse_qs(parts.query), here)
        if "/manifests/" in parts.path and method == "PUT":
            self.manifests[name] = body(handler)
            return send(handler, 201)
        if "/blobs/" in parts.path:
            found = self.blobs.get(name)
            return send(handler, 404) if found is None else send(handler, 200, found)
        return send(handler, 200, b"{}")

    def _upload(
        self, handler: http.server.BaseHTTPRequestHandler, method: str, name: str, query: dict[str, list[str]],
        here: dict[str, str],
    ) -> None:  # fmt: skip
        if method == "POST":
            number = str(len(self._uploads))
            self._uploads[number] = b""
            return send(handler, 202, b"", {"Location": f"{here['Location']}{number}?state=x"})
        had = self._uploads[name]
        if method == "GET":
            return send(handler, 204, b"", {**here, "Range": f"0-{max(0, len(had) - 1)}"})
        at = handler.headers.get("Content-Range", "").partition("-")[0]
        if at and int(at) != len(had):
            return send(handler, 416)
        if method == "PATCH" and self.cut:
            self._uploads[name] = had + body(handler, self.cut.pop(0))
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
            return None
        self._uploads[name] = had + body(handler)
        if method == "PATCH":
            return send(handler, 202, b"", here)
        raw = self._uploads.pop(name)
        if digest(raw) != query["digest"][0]:
            return send(handler, 400, b'{"errors":[{"code":"DIGEST_INVALID","message":"wrong"}]}')
        self.blobs[digest(raw)] = raw
        return send(handler, 201)


# -- images, and a registry that lies about them ----------------------------------------------------------------


def digest(raw: bytes) -> str:
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def layer(files: dict[str, bytes]) -> bytes:
    """The plain tar of a layer with these files."""
    return tar_of(files)


class Image:
    """A schema 2 image of gzip layers: `blobs` by digest, `manifest` bytes."""

    def __init__(self, layers: list[bytes], **config: Any) -> None:
        self.tars = layers
        self.packed = [gzip.compress(tar, 1, mtime=0) for tar in layers]
        document = {
            "architecture": "amd64",
            "os": "linux",
            "created": "2024-01-01T00:00:00Z",
            "config": {"Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(tar) for tar in layers]},
            **config,
        }
        self.config = json.dumps(document).encode()
        self.id = digest(self.config)
        self.blobs = {digest(raw): raw for raw in [self.config, *self.packed]}
        self.document = {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": {"mediaType": DOCKER_CONFIG, "size": len(self.config), "digest": self.id},
            "layers": [{"mediaType": DOCKER_LAYER, "size": len(raw), "digest": digest(raw)} for raw in self.packed],
        }
        self.manifest = json.dumps(self.document).encode()


Lie = Callable[[http.server.BaseHTTPRequestHandler, str, bytes], bool]
"""Called with the handler, the digest and the true bytes of a blob; True when it has answered."""


class Liar:
    """A registry of images by repository, honest but for `lies[repository]`, which answers for blobs.

    `manifests[repository]` replaces a manifest: (media type, bytes).
    """

    def __init__(self, tls: Path | None = None) -> None:
        self.images: dict[str, Image] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.lies: dict[str, Lie] = {}
        self.before: Callable[[http.server.BaseHTTPRequestHandler], bool] | None = None
        self.server = Server(self._answer, tls)
        self.host = self.server.host

    def close(self) -> None:
        self.server.close()

    def _answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        if self.before is not None and self.before(handler):
            return
        path = handler.path
        if path == "/v2/":
            return send(handler, 200, b"{}")
        _, _, rest = path.partition("/v2/")
        repository, _, target = rest.rpartition("/")
        repository, _, kind = repository.rpartition("/")
        image = self.images.get(repository)
        if image is None:
            return send(handler, 404, b'{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known"}]}')
        if kind == "manifests":
            media_type, raw = self.manifests.get(repository, (DOCKER_MANIFEST, image.manifest))
            return send(handler, 200, raw, {"Content-Type": media_type})
        raw = image.blobs.get(target, b"")
        lie = self.lies.get(repository)
        if lie is not None and lie(handler, target, raw):
            return None
        return self.honest(handler, raw)

    @staticmethod
    def honest(handler: http.server.BaseHTTPRequestHandler, raw: bytes) -> None:
        start = handler.headers.get("Range", "").removeprefix("bytes=").rstrip("-")
        if start:
            at = int(start)
            return send(handler, 206, raw[at:], {"Content-Range": f"bytes {at}-{len(raw) - 1}/{len(raw)}"})
        return send(handler, 200, raw)
