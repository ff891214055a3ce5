"""A web server for ADD, and a registry for FROM: every answer that a file's name, content or failure can depend on.

/plain, /a%20b, /dir/, /, /x%2Fy, …   the path as it was asked for, as text
/redirect                             302 to /plain; /redirect-name to /elsewhere/other.txt
/disposition                          a name in Content-Disposition; /disposition-path one with directories in it
/t.tar, /t.tar.gz                     an archive of one file
/missing, /broken                     404, 500
/locked.git/…, /missing.git/…         401, 404: repositories that cannot be had
/v2/NAME/…                            the refusal of REFUSALS, or a manifest that is none
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from tests.support.tars import directory, member, tar

LAST_MODIFIED = "Tue, 02 Jan 2024 03:04:05 GMT"
ARCHIVE = tar(directory("t"), member("t/inside", b"inside\n"))
STATUS = {"/missing": 404, "/broken": 500}
PLACES = {"/redirect": "/plain", "/redirect-name": "/elsewhere/other.txt", "/redirect-loop": "/redirect-loop"}
DISPOSITIONS = {
    "/disposition": 'attachment; filename="given.txt"',
    "/disposition-path": 'attachment; filename="../up/given.txt"',
    "/disposition-encoded": "attachment; filename*=UTF-8''na%C3%AFve%20name.txt",
}


_JSON, _MANIFEST = "application/json", "application/vnd.oci.image.manifest.v1+json"


def _errors(code: str, message: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message, "detail": None}]}).encode()


REFUSALS: dict[str, tuple[int, str, bytes]] = {
    "unknown-name": (404, _JSON, _errors("NAME_UNKNOWN", "repository name not known to registry")),
    "unknown-tag": (404, _JSON, _errors("MANIFEST_UNKNOWN", "manifest unknown")),
    "denied": (403, _JSON, _errors("DENIED", "requested access to the resource is denied")),
    "unauthorized": (401, _JSON, _errors("UNAUTHORIZED", "authentication required")),
    "locked": (401, _JSON, _errors("UNAUTHORIZED", "authentication required")),
    "too-many": (429, _JSON, _errors("TOOMANYREQUESTS", "pull rate limit exceeded")),
    "failing": (500, _JSON, _errors("UNKNOWN", "unknown error")),
    "page": (404, "text/html", b"<html>not here</html>"),
    "no-json": (200, _MANIFEST, b"no manifest"),
    "other-type": (200, "text/plain", b"{}"),
    "other-content": (200, _MANIFEST, b'{"schemaVersion": 2, "mediaType": "' + _MANIFEST.encode() + b'"}'),
}
"""What the registry says under each name. Debian's build of Docker Engine, which the answers of this corpus come from,
says less of some than Docker's own (`denied`, without `pull access denied for …`): those compare no message."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/v2/"):
            return self._registry(path)
        if ".git/" in path:
            return self._say(401 if path.startswith("/locked") else 404, "text/plain", b"no\n", ".git" in path)
        status = STATUS.get(path, 302 if path in PLACES else 200)
        body = f"{self.path}\n".encode()
        if path.startswith("/t.tar"):
            body = gzip.compress(ARCHIVE, mtime=0) if path.endswith(".gz") else ARCHIVE
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", LAST_MODIFIED)
        if path in PLACES:
            self.send_header("Location", PLACES[path])
        if path in DISPOSITIONS:
            self.send_header("Content-Disposition", DISPOSITIONS[path])
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def _registry(self, path: str) -> None:
        name = path.split("/")[2]
        if not name:
            return self._say(200, _JSON, b"{}")
        return self._say(*REFUSALS[name], name == "locked")

    def _say(self, status: int, content_type: str, body: bytes, asks: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if status == 401 and asks:
            self.send_header("WWW-Authenticate", 'Basic realm="here"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[str]:
    """Serve for as long as the context; the server's address, without a slash at its end."""
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("SAMPAN_SERVER_PORT", "0"))), _Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
