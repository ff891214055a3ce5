"""A web server for ADD: every answer that a file's name, content or failure can depend on.

/plain, /a%20b, /dir/, /, /x%2Fy, …   the path as it was asked for, as text
/redirect                             302 to /plain; /redirect-name to /elsewhere/other.txt
/disposition                          a name in Content-Disposition; /disposition-path one with directories in it
/t.tar, /t.tar.gz                     an archive of one file
/missing, /broken                     404, 500
"""

from __future__ import annotations

import gzip
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


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
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

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[str]:
    """Serve for as long as the context; the server's address, without a slash at its end."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
