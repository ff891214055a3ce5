"""Git sources: contexts at a repository, ADD of one. A checkout is a tree as old as its commit.

    address   what a URL says: remote, ref, subdirectory, checksum (pure)
    Git       resolve → fetch what is missing into a repository kept by remote → check out → tree

git itself does the work, with one script, in a task that sees nothing of the host but the programs (hosttask.py): what
a remote sends is read by nobody else. No hook, helper, editor or configuration of the host is used; only http, https,
git and ssh are spoken; `file` and `ext` are not, neither by submodules (CVE-2022-39253, CVE-2017-1000117).

Secrets of the client: GIT_AUTH_HEADER[.host], GIT_AUTH_TOKEN[.host] (http), its agent (ssh); never kept, never in
arguments.

Source: git-fetch(1), git-config(1); Docker's documentation, "Git repositories" and "Build secrets".
"""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import os
import posixpath
import re
import shutil
import tempfile
from dataclasses import replace
from urllib.parse import parse_qsl, unquote, urlsplit
from weakref import WeakValueDictionary

from sampan.engine.builder.failures import BadAddress, NoCommit, WrongCommit
from sampan.engine.builder.files.dirtree import DirTree
from sampan.engine.builder.files.hosttask import HostTask
from sampan.engine.builder.ops import GitOp
from sampan.engine.builder.session import Session
from sampan.errors import Internal, InvalidArgument, NotFound, SampanError
from sampan.linux import saferoot

SCHEMES = ("http", "https", "git", "ssh")
_SCP = re.compile(r"\w[\w.+-]*@\w[\w.-]*:[^/].*")
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_TRUE = ("", "1", "true")

NO_REF, NO_COMMIT = 3, 4  # statuses of the script; what git itself cannot do is 1 or 128

# REPO (kept), OUT (empty), REMOTE, REF, COMMIT (perhaps empty), KEEP and the statuses are variables; says "commit time"
# on stdout.
SCRIPT = r"""
set -eu
git() { command git -c core.hooksPath=/dev/null -c gc.auto=0 -c advice.detachedHead=false "$@"; }
everything() {
  shallow=""; [ ! -f "$REPO/shallow" ] || shallow=--unshallow
  git -C "$REPO" fetch -q --force $shallow -- "$REMOTE" '+refs/heads/*:refs/heads/*' '+refs/tags/*:refs/tags/*'
}
has() { git -C "$REPO" cat-file -e "$1^{commit}" 2>/dev/null; }

[ -f "$REPO/HEAD" ] || git init -q --bare "$REPO"
if [ -n "$COMMIT" ]; then
  has "$COMMIT" || git -C "$REPO" fetch -q --no-tags --depth=1 -- "$REMOTE" "$COMMIT" 2>/dev/null || everything
  found=$COMMIT
elif git -C "$REPO" fetch -q --no-tags --depth=1 -- "$REMOTE" "${REF:-HEAD}" 2>/dev/null; then
  found=$(git -C "$REPO" rev-parse FETCH_HEAD)
else
  everything
  found=$(git -C "$REPO" rev-parse --verify -q "$REF^{commit}") || exit $NO_REF
fi
commit=$(git -C "$REPO" rev-parse --verify -q "$found^{commit}") || exit $NO_COMMIT

cd "$OUT"
git init -q .
git remote add origin "$REMOTE"
GIT_ALLOW_PROTOCOL=file command git -c uploadpack.allowAnySHA1InWant=true fetch -q --no-tags --depth=1 "$REPO" "$commit"
git checkout -q --force "$commit"
if [ -f .gitmodules ]; then git submodule update -q --init --recursive --depth=1; fi
git show -s --format="%H $found %ct" "$commit"
if [ -z "$KEEP" ]; then find . -name .git -prune -exec rm -rf {} +; fi
"""


class Git:
    """The repositories of one engine. On the loop's thread."""

    def __init__(self, commands: HostTask, directory: str, scratch: str) -> None:
        """directory: what is kept of remotes, a cache; scratch: for checkouts."""
        self._commands = commands
        self._directory = directory
        self._scratch = scratch
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        os.makedirs(directory, mode=0o700, exist_ok=True)

    async def checkout(self, op: GitOp, session: Session | None = None) -> DirTree:
        """Return the tree of a commit.

        Raises: InvalidArgument (address, checksum, subdirectory), Internal in git's words.
        """
        op = address(op)
        name = hashlib.sha256(op.remote.encode()).hexdigest()
        repository = f"{self._directory}/{name}"
        async with self._locks.setdefault(name, asyncio.Lock()):
            os.makedirs(repository, mode=0o700, exist_ok=True)
            place = tempfile.mkdtemp(prefix="git-", dir=self._scratch)
            try:
                out = f"{place}/out"
                os.mkdir(out, 0o700)
                commit, found, time_s = await self._run(op, repository, out, session)
                if op.checksum and not commit.startswith(op.checksum) and not found.startswith(op.checksum):
                    raise WrongCommit(op.checksum, commit)
                path = await asyncio.to_thread(_finish, out, op.subdir, time_s)
                return DirTree(path, owned=place)
            except BaseException:
                await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
                raise

    def size_bytes(self) -> int:
        """Return what is kept. Blocking."""
        return sum(
            os.lstat(f"{directory}/{name}").st_size
            for directory, _, names in os.walk(self._directory)
            for name in names
        )

    def forget(self) -> None:
        """Delete what is kept, but for remotes in use. Blocking."""
        for name in os.listdir(self._directory):
            lock = self._locks.get(name)
            if lock is None or not lock.locked():
                shutil.rmtree(f"{self._directory}/{name}", ignore_errors=True)

    async def _run(self, op: GitOp, repository: str, out: str, session: Session | None) -> tuple[str, str, int]:
        env = {
            "REMOTE": _without_credentials(op.remote),
            "REF": "" if _COMMIT.fullmatch(op.ref) else op.ref,
            "COMMIT": op.ref if _COMMIT.fullmatch(op.ref) else "",
            "KEEP": "1" if op.keep_git_dir else "",
            "NO_REF": str(NO_REF),
            "NO_COMMIT": str(NO_COMMIT),
            "GIT_ALLOW_PROTOCOL": ":".join(SCHEMES),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "",  # nobody is there to be asked
            "LC_ALL": "C.UTF-8",
        }
        env |= await _authorization(op.remote, session)
        ran = await self._commands.run(SCRIPT, env, {"REPO": repository, "OUT": out}, session)
        if ran.status:
            raise _failure(op, ran.status, ran.stderr.decode(errors="replace"))
        commit, found, time = ran.stdout.decode().split()[-3:]
        return commit, found, int(time)


def address(op: GitOp) -> GitOp:
    """Return the operation with what its URL's query says. Pure.

    Its keys: ref, tag, branch, subdir, checksum, commit, keep-git-dir.

    Raises: BadAddress for an address that is none, unknown keys, `#` beside a query.
    """
    remote, mark, query = op.remote.partition("?")
    if "\0" in op.remote or any(ord(c) < 32 for c in op.remote + op.ref) or op.ref.startswith("-"):
        raise BadAddress(f"invalid git address {op.remote!r}")
    if not _SCP.fullmatch(remote):
        parts = urlsplit(remote)
        if parts.scheme not in SCHEMES or not parts.hostname or parts.hostname.startswith("-"):
            raise BadAddress(f"invalid git address {_shown(remote)}: it should be http, https, git or ssh")
    if mark:
        op = replace(op, remote=remote)
        for key, value in parse_qsl(query, keep_blank_values=True):
            if key in ("ref", "tag", "branch"):
                prefix = {"ref": "", "tag": "refs/tags/", "branch": "refs/heads/"}[key]
                op = replace(op, ref=prefix + value.removeprefix(prefix))
            elif key == "subdir":
                op = replace(op, subdir=value)
            elif key in ("checksum", "commit"):
                op = replace(op, checksum=value)
            elif key == "keep-git-dir":
                op = replace(op, keep_git_dir=value.lower() in _TRUE)
            else:
                raise BadAddress(f'unexpected query "{key}"')
    if op.checksum and not re.fullmatch(r"[0-9a-f]{7,64}", op.checksum):
        raise BadAddress(f"invalid checksum {op.checksum} for git source: it should be a commit")
    return op


def _failure(op: GitOp, status: int, said: str) -> SampanError:
    """Return why a checkout failed, in BuildKit's words."""
    if status == NO_REF:
        return NoCommit(f'repository does not contain ref {op.ref}, output: ""')
    if status == NO_COMMIT:
        said = f"fatal: unable to read tree ({op.ref})\n"
        return Internal(f"failed to checkout remote {_shown(op.remote)}: git stderr:\n{said}: exit status 128")
    doing = "failed to fetch remote" if op.ref else "error fetching default branch for repository"
    return NoCommit(f"{doing} {_shown(op.remote)}: git stderr:\n{said}: exit status {status}")


def _shown(remote: str) -> str:
    """A remote without its password."""
    return re.sub(r"//([^/@:]*):[^/@]*@", r"//\1:xxxxx@", remote)


async def _authorization(remote: str, session: Session | None) -> dict[str, str]:
    """Git configuration by environment: the header that the URL, else the client's secrets, give for this host.

    A URL's own credentials go this way too: git hands a URL on in the arguments of its processes.
    """
    parts = urlsplit(remote)
    if parts.scheme not in ("http", "https"):
        return {}
    host = parts.netloc.rpartition("@")[2]
    if parts.username or parts.password:
        both = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        return _header(parts.scheme, host, "basic " + base64.b64encode(both.encode()).decode())
    if session is None:
        return {}
    for id in (f"GIT_AUTH_HEADER.{host}", "GIT_AUTH_HEADER", f"GIT_AUTH_TOKEN.{host}", "GIT_AUTH_TOKEN"):
        try:
            secret = (await session.secret(id)).decode().strip()
        except NotFound:
            continue
        if id.startswith("GIT_AUTH_TOKEN"):
            secret = "basic " + base64.b64encode(f"x-access-token:{secret}".encode()).decode()
        return _header(parts.scheme, host, secret)
    return {}


def _header(scheme: str, host: str, authorization: str) -> dict[str, str]:
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"http.{scheme}://{host}/.extraheader",
        "GIT_CONFIG_VALUE_0": f"Authorization: {authorization}",
    }


def _without_credentials(remote: str) -> str:
    """A remote as git is given it."""
    if _SCP.fullmatch(remote):
        return remote
    parts = urlsplit(remote)
    if parts.scheme not in ("http", "https"):
        return remote
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _finish(out: str, subdir: str, time_s: int) -> str:
    """Thread: make everything root's and as old as the commit; returns the subdirectory, found inside the checkout."""
    for directory, names, files, fd in os.fwalk(out, topdown=False):
        for name in (*names, *files):
            os.chown(name, 0, 0, dir_fd=fd, follow_symlinks=False)
            os.utime(name, (time_s, time_s), dir_fd=fd, follow_symlinks=False)
        if directory == out:
            os.fchown(fd, 0, 0)
            os.fchmod(fd, 0o755)
            os.utime(fd, (time_s, time_s))
    if not subdir.strip("/."):
        return out
    root_fd = os.open(out, _DIRECTORY)
    try:
        fd = saferoot.open_in_root(root_fd, subdir, _DIRECTORY, xdev=False)
        try:
            return os.readlink(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
    except OSError as e:
        path = posixpath.normpath("/" + subdir)
        name = path.strip("/")
        reason = f'failed to lstat "{name}": statat {name}: no such file or directory'
        if e.errno == errno.ENOTDIR:
            reason = f'git subpath "{path}" contains non-directory "{name}"'
        raise InvalidArgument(f"invalid subdir {path}: {reason}") from e
    finally:
        os.close(root_fd)
