"""Answers that are refusals: the registry's error documents as our errors, in Docker's words. Pure.

Source: OCI distribution-spec 1.1 "Error Codes"; words as Docker Engine 28.5 prints them.
"""

from __future__ import annotations

from http import HTTPStatus

from sampan.errors import Internal, NotFound, SampanError
from sampan.spec import codec
from sampan.spec.go_values import quote

MAX_BYTES = 64 * 1024
_STATUS = {
    "UNAUTHORIZED": 401,
    "DENIED": 403,
    "MANIFEST_UNKNOWN": 404,
    "NAME_UNKNOWN": 404,
    "BLOB_UNKNOWN": 404,
    "TOOMANYREQUESTS": 429,
}


class Refused(SampanError):
    """The registry said no. `code`: its word for it (`DENIED`), or "" when it gave none; `http`: the status it sent."""

    def __init__(self, message: str, *, code: str = "", http: int = 500, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.http = http
        self.retry_after_s = retry_after_s
        self.status = _STATUS.get(code, 500)

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed later."""
        return self.http in (408, 429) or (self.http >= 500 and self.http not in (501, 505))


class TokenExpired(Refused):
    """A token that was good a moment ago: what cannot simply be sent again is told so."""

    def __init__(self) -> None:
        super().__init__("unauthorized: authentication required", code="UNAUTHORIZED", http=401)

    @property
    def passing(self) -> bool:
        return True


class NoCredentials(SampanError):
    """A registry that wants a password, and none was given."""

    def __init__(self) -> None:
        super().__init__("no basic auth credentials")


class Unverified(Internal):
    """A blob that is not what its digest and size say."""

    def __init__(self, digest: str) -> None:
        super().__init__(f"filesystem layer verification failed for digest {digest}")


def read(status: int, raw: bytes, *, retry_after: str = "") -> Refused:
    """Return the refusal that an answer of `status` with the body `raw` is."""
    after = _seconds(retry_after)
    if 400 <= status < 500:
        try:
            document = codec.plain(raw)
            errors = document["errors"]
            first = errors[0]
            code = str(first.get("code") or "UNKNOWN").upper()
            words = [_words(error) for error in errors]
        except (ValueError, LookupError, TypeError, AttributeError):
            if status == 401:
                return Refused("unauthorized: authentication required", code="UNAUTHORIZED", http=status)
            if status == 429:
                return Refused(_unexpected(status), code="TOOMANYREQUESTS", http=status, retry_after_s=after)
            shown = quote(raw[:512].decode(errors="replace"))
            return Refused(f"error parsing HTTP {status} response body: {shown}", http=status)
        text = words[0] if len(words) == 1 else "errors:\n" + "".join(f"{word}\n" for word in words)
        return Refused(text, code=code, http=status, retry_after_s=after)
    return Refused(_unexpected(status), http=status, retry_after_s=after)


def _words(error: dict[str, object]) -> str:
    code = str(error.get("code") or "UNKNOWN").lower().replace("_", " ")
    return f"{code}: {error.get('message') or code}"[:4096]


def _unexpected(status: int) -> str:
    try:
        phrase = f" {HTTPStatus(status).phrase}"
    except ValueError:
        phrase = ""
    return f"received unexpected HTTP status: {status}{phrase}"


def _seconds(text: str) -> float | None:
    """Return Retry-After in seconds; dates are not understood and mean nothing."""
    return float(text) if text.strip().isdecimal() and len(text) < 10 else None


def not_found(refused: Refused, name: str, repository: str) -> SampanError:
    """Say what a pull says of a refusal. name: as the user wrote it; repository: without tag. Others pass unchanged."""
    if refused.code == "DENIED":
        return NotFound(
            f"pull access denied for {repository}, repository does not exist or may require 'docker login': "
            f"{refused.message}"
        )
    if refused.code == "MANIFEST_UNKNOWN":
        return NotFound(f"manifest for {name} not found: {refused.message}")
    if refused.code == "NAME_UNKNOWN":
        return NotFound(f"repository {repository} not found: {refused.message}")
    return refused
