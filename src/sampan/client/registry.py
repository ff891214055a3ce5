"""A registry as a client sees it directly: manifests and mounts, for the `manifest` commands, which no engine serves.

Blocking, on the standard library. Invariants: credentials go to the registry's own host and to the token service that
it names, never to a host that a redirect leads to, never over plain http unless asked for; digests are of the bytes as
they came.

Source: OCI distribution-spec 1.1; distribution token authentication; the words are docker 28.2's.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import re
import socket
from urllib.parse import urlencode, urljoin, urlsplit

from sampan.client import jsontext
from sampan.spec.urls import without_user

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Mapping

HUB, HUB_HOST = "docker.io", "registry-1.docker.io"
TIMEOUT_S = 60
MAX_BYTES = 16 * 1024 * 1024
MAX_REDIRECTS = 5
SCHEMA2 = "application/vnd.docker.distribution.manifest.v2+json"
LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
ACCEPT = ", ".join((SCHEMA2, LIST, OCI_MANIFEST, OCI_INDEX))
_PARAMETER = re.compile(r'([A-Za-z_]+)="([^"]*)"')


class RegistryError(Exception):
    """Nobody answers, or the answer is no."""


class Missing(RegistryError):
    """There is no such thing."""


class Answer:
    """One answer, read to its end. Header names in lower case."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body


class Registry:
    """The registry of a domain. `auth`: an AuthConfig object; insecure: plain http and any certificate will do."""

    def __init__(self, domain: str, auth: Mapping[str, str], *, insecure: bool) -> None:
        self._host = HUB_HOST if domain == HUB else domain
        self._auth = auth
        self._insecure = insecure
        self._tokens: dict[tuple[str, ...], str] = {}
        self._challenge: tuple[str, dict[str, str]] = ("", {})
        self._base = self._answering()

    @property
    def usable(self) -> bool:
        """Whether it may be spoken to: plain http only when that was asked for."""
        return self._insecure or self._base.startswith("https:")

    def manifest(self, path: str, target: str) -> tuple[bytes, str, str]:
        """Return (bytes, media type, digest) of a tag or digest. Raises: Missing, RegistryError."""
        answer = self._ask("GET", f"/v2/{path}/manifests/{target}", path, headers={"Accept": ACCEPT})
        digest = f"sha256:{hashlib.sha256(answer.body).hexdigest()}"
        if target.startswith("sha256:") and digest != target:
            raise RegistryError(f"manifest verification failed for digest {target}")
        return answer.body, answer.headers.get("content-type", "").partition(";")[0], digest

    def blob(self, path: str, digest: str) -> bytes:
        body = self._ask("GET", f"/v2/{path}/blobs/{digest}", path).body
        if f"sha256:{hashlib.sha256(body).hexdigest()}" != digest:
            raise RegistryError(f"blob verification failed for digest {digest}")
        return body

    def mount(self, path: str, digest: str, source: str) -> None:
        """Have the repository `path` hold a blob of the repository `source`. Raises: RegistryError."""
        query = urlencode({"mount": digest, "from": source})
        answer = self._ask("POST", f"/v2/{path}/blobs/uploads/?{query}", path, push=True, source=source)
        if answer.status != 201:
            raise RegistryError(f"unable to mount blob {digest} from {source} to {path}")

    def put(self, path: str, target: str, raw: bytes, media_type: str) -> str:
        """Store a manifest under a tag or digest. Returns its digest."""
        self._ask("PUT", f"/v2/{path}/manifests/{target}", path, {"Content-Type": media_type}, raw, push=True)
        return f"sha256:{hashlib.sha256(raw).hexdigest()}"

    # -- requests ---------------------------------------------------------------------------------------------------

    def _answering(self) -> str:
        """Return scheme://host where the registry answers. Raises: RegistryError in docker's words."""
        failures = []
        for scheme in ("https", "http"):
            base = f"{scheme}://{self._host}"
            try:
                answer = self._send("GET", f"{base}/v2/", {}, None)
            except (OSError, http.client.HTTPException) as e:
                failures.append(f'Get "{base}/v2/": {_words(e, self._host)}')
                continue
            self._learn(answer)
            return base
        raise RegistryError(f"failed to configure transport: error pinging v2 registry: {failures[0]}")

    def _ask(
        self,
        method: str,
        target: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        *,
        push: bool = False,
        source: str = "",
    ) -> Answer:
        """Make a request that is not refused: authorise it, once more after a 401; follow redirects without
        credentials.
        """
        scopes = [f"repository:{path}:{'pull,push' if push else 'pull'}"]
        if source:
            scopes.append(f"repository:{source}:pull")
        url = self._base + target
        for attempt in range(2):
            sent = {**(headers or {}), **self._authorization(tuple(scopes))}
            answer = self._send(method, url, sent, body)
            if answer.status != 401 or attempt:
                break
            self._tokens.clear()
            self._learn(answer)
        for _ in range(MAX_REDIRECTS):
            location = answer.headers.get("location", "")
            if method != "GET" or answer.status not in (301, 302, 303, 307, 308) or not location:
                break
            url = urljoin(url, location)
            if url.startswith("http:") and not self._insecure:
                raise RegistryError(f"refusing the redirect to {url}")
            answer = self._send("GET", url, dict(headers or {}), None)
        if answer.status >= 400:
            raise (Missing if answer.status == 404 else RegistryError)(_refusal(answer))
        return answer

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=self._tls())
        else:
            connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        try:
            target = parts.path + (f"?{parts.query}" if parts.query else "")
            connection.request(method, target or "/", body, dict(headers))
            response = connection.getresponse()
            data = response.read(MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                raise RegistryError(f"{method} {url}: the answer has more than {MAX_BYTES} bytes")
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, data)
        finally:
            connection.close()

    def _tls(self) -> ssl.SSLContext:
        import ssl

        context = ssl.create_default_context()
        if self._insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    # -- who we are -------------------------------------------------------------------------------------------------

    def _learn(self, answer: Answer) -> None:
        """Note what a 401 asks for."""
        if answer.status == 401:
            scheme, _, rest = answer.headers.get("www-authenticate", "").partition(" ")
            self._challenge = (scheme.lower(), dict(_PARAMETER.findall(rest)))

    def _authorization(self, scopes: tuple[str, ...]) -> dict[str, str]:
        scheme, parameters = self._challenge
        if scheme == "basic" and self._auth.get("username"):
            return {"Authorization": self._basic()}
        if scheme == "bearer":
            if scopes not in self._tokens:
                self._tokens[scopes] = self._token(parameters, scopes)
            return {"Authorization": f"Bearer {self._tokens[scopes]}"}
        return {}

    def _basic(self) -> str:
        pair = f"{self._auth.get('username', '')}:{self._auth.get('password', '')}"
        return "Basic " + base64.b64encode(pair.encode()).decode()

    def _token(self, parameters: Mapping[str, str], scopes: Iterable[str]) -> str:
        """Ask the token service. Raises: RegistryError when it refuses."""
        realm = without_user(parameters.get("realm", ""))  # ours count, and are sent only once
        if not realm.startswith("https:") and not (self._insecure and realm.startswith("http:")):
            raise RegistryError(f'invalid token auth challenge realm: "{realm}"')
        service = [("service", parameters["service"])] if parameters.get("service") else []
        if refresh := self._auth.get("identitytoken"):
            form = [("grant_type", "refresh_token"), ("refresh_token", refresh), ("client_id", "docker")]
            body = urlencode([*service, *form, ("scope", " ".join(scopes))]).encode()
            answer = self._send("POST", realm, {"Content-Type": "application/x-www-form-urlencoded"}, body)
        else:
            query = urlencode([*service, *(("scope", scope) for scope in scopes)])
            headers = {"Authorization": self._basic()} if self._auth.get("username") else {}
            answer = self._send("GET", realm + ("&" if "?" in realm else "?") + query, headers, None)
        if answer.status != 200:
            raise RegistryError(_refusal(answer))
        found = jsontext.loads(answer.body)
        token = (found.get("token") or found.get("access_token")) if isinstance(found, dict) else None
        if not isinstance(token, str) or not token:
            raise RegistryError("authorization server did not include a token in the response")
        return token


def _refusal(answer: Answer) -> str:
    """Say what a registry says with an answer of 400 or more, in docker's words."""
    words = []
    if answer.status == 401 and 'error="insufficient_scope"' in answer.headers.get("www-authenticate", ""):
        words.append("denied: requested access to the resource is denied")
    try:
        errors = jsontext.loads(answer.body)["errors"]
        words += [f"{str(e['code']).lower().replace('_', ' ')}: {e.get('message') or e['code']}" for e in errors]
    except (jsontext.Malformed, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        words.append(f"received unexpected HTTP status: {answer.status}")
    return words[0] if len(words) == 1 else "errors:\n" + "".join(f"{word}\n" for word in words)


def _words(error: BaseException, host: str) -> str:
    name = urlsplit(f"//{host}").hostname or host
    if isinstance(error, socket.gaierror):
        return f"dial tcp: lookup {name}: no such host"
    if isinstance(error, ConnectionRefusedError):
        return f"dial tcp {host}: connect: connection refused"
    return str(getattr(error, "strerror", "") or error).lower()
