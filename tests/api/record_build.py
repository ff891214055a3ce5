"""Record the classic builder's answers: `python -m tests.api.record_build SOCKET > tests/api/build_answers.json`.

The answers in the repository are those of Docker Engine 28.5.2 to `POST /build`. A case is a context, a query, and how
often it is asked; ids are masked. The engine needs busybox:latest; what a case tags is removed again.
"""

from __future__ import annotations

import json
import re
import sys
import urllib.parse
from typing import Any

from tests.support.engine import UnixConnection
from tests.support.tars import tar_of

Case = dict[str, Any]
Files = dict[str, str]
MTIME = 1_600_000_000


def case(name: str, files: Files, *, times: int = 1, body: str | None = None, **query: Any) -> Case:
    """times: only the last answer counts, those before fill the cache. body: instead of an archive of the files."""
    return {"name": name, "files": files, "query": query, "times": times, "body": body}


def df(*lines: str, **files: str) -> Files:
    return {"Dockerfile": "".join(f"{line}\n" for line in lines), **files}


RUN = df("FROM busybox", "RUN echo x")
EVERY = df(
    "FROM busybox", "ARG Z=\"1 2\"", "ENV A=\"x y\" B=2", "ENV C d e", "LABEL a=\"b c\" d=e", "WORKDIR rel",
    "COPY --chown=1:2 f /x/",
    "ADD f g dir/", "RUN echo $Z $A", "RUN [\"echo\", \"x y\"]", "RUN echo a \\", "  && echo b", "EXPOSE 80 81/udp",
    "VOLUME [\"/a\", \"/b\"]",
    "USER a:b", "STOPSIGNAL TERM", "HEALTHCHECK --interval=1s --retries=2 CMD true", "ONBUILD RUN x", "MAINTAINER joe",
    "SHELL [\"a\", \"b\"]",
    "ENTRYPOINT [\"e\"]", "CMD echo \"q\"", f="1", g="2",
)  # fmt: skip
STAGES = df(
    "FROM busybox AS a",
    "RUN echo 1 > /a",
    "FROM busybox AS unused",
    "RUN echo u",
    "FROM busybox",
    "COPY --from=a /a /b",
)
IGNORED = df(
    "FROM busybox",
    "COPY . /c/",
    "RUN cd /c && find . | sort",
    **{".dockerignore": "Dockerfile\n.dockerignore\nx*\n!x1\n"},
    x1="",
    x2="",
    y="",
)

CASES: list[Case] = [
    case("every instruction", EVERY, nocache=1, t="recorded/every:1"),
    case("every instruction again", EVERY, times=2, t="recorded/every:1"),
    case("without rm", RUN, nocache=1, rm=0),
    case("names", RUN, times=2, t=["recorded/a:1", "recorded/b", "recorded/b:latest"]),
    case("quiet", RUN, nocache=1, q=1),
    case("quiet and failing", df("FROM busybox", "RUN exit 7"), nocache=1, q=1),
    case("stages, unused ones too", STAGES, nocache=1),
    case("target", STAGES, nocache=1, target="a"),
    case("target in other letters", STAGES, nocache=1, target="A"),
    case(
        "labels and arguments", RUN, nocache=1, labels='{"x":"y","a":"b c"}', buildargs='{"foo":"bar","HTTP_PROXY":"p"}'
    ),
    case("standard error", df("FROM busybox", "RUN echo err >&2"), nocache=1),
    case("run fails", df("FROM busybox", "RUN exit 7"), nocache=1),
    case("run fails in exec form", df("FROM busybox", 'RUN ["sh", "-c", "exit 3"]'), nocache=1),
    case("no such program", df("FROM busybox", 'RUN ["nope"]'), nocache=1),
    case("no such user", df("FROM busybox", "USER ghost", "RUN true"), nocache=1),
    case("no network of that name", RUN, nocache=1, networkmode="nope"),
    case("copy of nothing", df("FROM busybox", "COPY nope /"), nocache=1),
    case("copy without a match", df("FROM busybox", "COPY no*pe /"), nocache=1),
    case("add of nothing", df("FROM busybox", "ADD nope.tar /"), nocache=1),
    case("several to a file", df("FROM busybox", "COPY f g x", f="", g=""), nocache=1),
    case("outside the context", df("FROM busybox", "COPY ../x /"), nocache=1),
    case("chown to a stranger", df("FROM busybox", "COPY --chown=ghost f /", f=""), nocache=1),
    case("base that is scratch", df("FROM scratch", "COPY f /", f="1"), nocache=1),
    case("nothing on scratch", df("FROM scratch"), nocache=1),
    case("scratch with a label", df("FROM scratch", "LABEL a=b"), nocache=1),
    case("only a base", df("FROM busybox"), nocache=1),
    case("ignored files", IGNORED, nocache=1),
    case(
        "triggers kept",
        df("FROM busybox", "ONBUILD RUN echo trig", "ONBUILD COPY f /"),
        nocache=1,
        t="recorded/trigger",
    ),
    case("one trigger", df("FROM busybox", "ONBUILD RUN echo one"), nocache=1, t="recorded/one"),
    case("triggers run", df("FROM recorded/trigger", "RUN true", f="1"), nocache=1),
    case("a trigger runs", df("FROM recorded/one"), nocache=1),
    case("another Dockerfile", {"x/y": "FROM busybox\nENV a=b\n"}, nocache=1, dockerfile="x/y"),
    case("Dockerfile by absolute path", RUN, nocache=1, dockerfile="/Dockerfile"),
    case("Dockerfile in small letters", {"dockerfile": "FROM busybox\nENV a=b\n"}, nocache=1),
    case("Dockerfile that is ignored", {**RUN, ".dockerignore": "Dockerfile\n.dockerignore\n"}, nocache=1),
    case("missing Dockerfile", RUN, dockerfile="nope"),
    case("Dockerfile outside", RUN, dockerfile="../x"),
    case("empty Dockerfile", {"Dockerfile": ""}),
    case("comments only", {"Dockerfile": "# nothing\n"}),
    case("empty body", {}, body=""),
    case("no archive", {}, body="FROM busybox\nRUN echo hi\n"),
    case("bad ignore file", {**RUN, ".dockerignore": "[bad\n"}, nocache=1),
    case("unknown instruction", df("FROM busybox", "NOPE x")),
    case("no stage", df("RUN x")),
    case("bad target", df("FROM busybox AS a"), target="zz"),
    case("target by number", RUN, target="0", nocache=1),
    case("bad name", RUN, t="BAD NAME"),
    case("name with digest", RUN, t="a@sha256:" + "0" * 64),
    case("empty name", RUN, nocache=1, t=""),
    case("bad build arguments", RUN, buildargs="{bad"),
    case("build arguments that are a list", RUN, buildargs="[]"),
    case("build argument that is a number", RUN, buildargs='{"a":1}'),
    case("build argument without a value", RUN, nocache=1, buildargs='{"a":null}'),
    case("bad labels", RUN, labels="{bad"),
    case("bad ulimits", RUN, ulimits="bad"),
    case("bad cache-from", RUN, cachefrom="bad"),
    case("bad outputs", RUN, outputs="x"),
    case("bad platform", RUN, platform="bad"),
    case("platform with too many parts", RUN, platform="xx/yy/zz/aa"),
    case("bad version", RUN, version="3"),
    case("bad isolation", RUN, isolation="zzz"),
    case("bad shm size", RUN, shmsize="x"),
    case("bad memory", RUN, nocache=1, memory="abc"),
    case("security options", RUN, securityopt='["a"]'),
    case("bad remote", RUN, remote="nope"),
    case("unreachable remote", RUN, remote="http://127.0.0.1:1/x"),
    case("syntax directive", {"Dockerfile": "# syntax=docker/dockerfile:1\nFROM busybox\nENV a=b\n"}, nocache=1),
    case("escape directive", {"Dockerfile": "# escape=`\nFROM busybox\nRUN echo a `\n && echo b\n"}, nocache=1),
    case("argument before FROM", df("ARG base=busybox", "FROM $base", "ARG base", "RUN echo $base"), nocache=1),
    case("argument required", df("ARG base", "FROM $base")),
    case("used argument", df("FROM busybox", "ARG who=me", "RUN echo $who"), nocache=1, buildargs='{"who":"you"}'),
]
MASKS = (
    (re.compile(r"sha256:[0-9a-f]{64}"), "sha256:<id>"),
    (re.compile(r"\b[0-9a-f]{12}\b"), "<id>"),
)


def archive(files: Files) -> bytes:
    return tar_of(files, mtime=MTIME)


def ask(socket: str, case: Case) -> dict[str, Any]:
    """The status and the messages, or the error's body."""
    answer: dict[str, Any] = {}
    query = {"version": 1, "rm": 1, **case["query"]}
    body = archive(case["files"]) if case["body"] is None else case["body"].encode()
    for _ in range(case["times"]):
        connection = UnixConnection(socket)
        path = "/v1.51/build?" + urllib.parse.urlencode(query, doseq=True)
        connection.request("POST", path, body, {"Content-Type": "application/x-tar"})
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        for pattern, mask in MASKS:
            text = pattern.sub(mask, text)
        answer = {"status": response.status, "messages": [json.loads(line) for line in text.splitlines() if line]}
    return answer


def main() -> None:
    lines = ",\n".join(json.dumps({**case, "answer": ask(sys.argv[1], case)}, ensure_ascii=False) for case in CASES)
    print(f"[\n{lines}\n]")


if __name__ == "__main__":
    main()
