"""Where files and bases come from beside the Dockerfile: the build context and `--build-context NAME=…`. Pure.

docker-image://ref   an image                 local:NAME    a directory of the client
oci-layout://ref     an image of the client   input:NAME    another target of the same bake
git and http URLs    a checkout, an archive
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from sampan.engine.builder.ops import ArchiveOp, GitOp, HttpOp, Vertex, VertexLabel
from sampan.engine.platforms import Platform
from sampan.errors import InvalidArgument
from sampan.spec import reference

MAIN = "context"
UNNAMED = "__unnamed__"  # a downloaded file whose URL names none
IMAGES = ("docker-image", "oci-layout")
_GIT_HTTP = re.compile(r"https?://[^#?]*\.git(?:[#?].*)?")
_GIT_SCP = re.compile(r"[\w.-]+@[\w.-]+:(?!//).+")


@dataclass(frozen=True, slots=True)
class NamedContext:
    """A context's kind (docker-image oci-layout local input git http http-file) and its value."""

    kind: str
    value: str


def parse(text: str) -> NamedContext:
    """Read what a context is. Raises: InvalidArgument for a scheme that is not known."""
    for kind in (*IMAGES, "local", "input", "http-file"):
        for mark in (f"{kind}://", f"{kind}:"):
            if text.startswith(mark):
                return NamedContext(kind, text.removeprefix(mark))
    if is_git(text):
        return NamedContext("git", text)
    if text.startswith(("http://", "https://")):
        return NamedContext("http", text)
    raise InvalidArgument(f"unsupported context source {text.partition(':')[0]} for {text}")


def find(contexts: Mapping[str, str], name: str, platform: Platform | None = None) -> NamedContext | None:
    """Return the context that stands in the place of a stage's or an image's name, one for the platform first."""
    names = [name]
    try:
        parsed = reference.parse(name)
        names += [parsed.familiar(), parsed.tagged().familiar(), str(parsed.tagged())]
        if parsed.tag == "latest":
            names.append(parsed.familiar_name())
    except InvalidArgument:
        pass
    for candidate in names:
        for key in ([f"{candidate}::{platform}"] if platform else []) + [candidate]:
            if key in contexts and key != MAIN:
                return parse(contexts[key])
    return None


def is_git(text: str) -> bool:
    """Return whether a source is a git repository: by scheme, by `.git`, or as `user@host:path`."""
    if text.startswith(("git://", "ssh://", "github.com/")):
        return True
    return bool(_GIT_HTTP.fullmatch(text) or _GIT_SCP.fullmatch(text))


def is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def unnamed(url: str) -> bool:
    """Return whether a URL names no file in the classic builder's eyes: its path ends in a slash, or it has none."""
    path = re.split(r"[?#]", url.partition("://")[2])[0].partition("/")[2]
    return not path or path.endswith("/")


def git(text: str, *, keep_git_dir: bool = False, checksum: str = "", name: str = "") -> GitOp:
    """Return `remote#ref:subdir` as a vertex."""
    remote, _, fragment = text.partition("#")
    ref, _, subdir = fragment.partition(":")
    if remote.startswith("github.com/"):
        remote = f"https://{remote}"
    label = VertexLabel(name=name or f"[internal] load git source {text}", internal=not name)
    return GitOp(remote=remote, ref=ref, subdir=subdir, keep_git_dir=keep_git_dir, checksum=checksum, label=label)


def http(text: str, *, checksum: str = "", name: str = "") -> HttpOp:
    """Return a URL as a vertex; the file is called as the URL's path, unquoted, ends."""
    path = unquote(re.split(r"[?#]", text.partition("://")[2])[0].partition("/")[2])
    filename = posixpath.basename(path.rstrip("/"))
    if filename in ("", ".", "..") or "\0" in filename:
        filename = UNNAMED
    label = VertexLabel(name=name or f"[internal] load remote build context {text}", internal=not name)
    return HttpOp(url=text, checksum=checksum, filename=filename, label=label)


def remote_tree(source: NamedContext, *, keep_git_dir: bool = False) -> Vertex:
    """Return a checkout, the unpacked tree of an archive, or (`http-file`) a download as it is."""
    if source.kind == "git":
        return git(source.value, keep_git_dir=keep_git_dir)
    if source.kind == "http-file":
        return http(source.value)
    return ArchiveOp(source=http(source.value), label=VertexLabel(name=f"extract {source.value}", internal=True))
