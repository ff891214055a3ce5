"""Record what an engine makes of every kind of value in every parameter: `python -m tests.api.record_kinds SOCKET`.

The parameters are those of the specification (`specification.json`: route → "query NAME", "header NAME" or
"body FIELD"), the kinds are how a value can be written: truth values, whole numbers, times, filters, and JSON of every
type. Only whether a request is taken, and in which words it is refused, is recorded; what a parameter does is told by
`test_parameters.py`. The answers in `kinds_answers.json` are those of Docker Engine 28.5.2: a list of the different
answers, and for each parameter the place of the answer to each of its values.

The engine gets four objects of its own (`stage`), and loses them again; no value may touch another.
"""

from __future__ import annotations

import json
import re
import sys
import urllib.parse
from pathlib import Path
from typing import Any

from tests.support import busybox
from tests.support.engine import UnixConnection

HERE = Path(__file__).parent
SPECIFICATION: dict[str, list[str]] = json.loads((HERE / "specification.json").read_text())
TIMEOUT_S = 120
NAME = "kinds"
JSON_TYPE = {"Content-Type": "application/json"}

TRUTHS = ["", "0", "1", "t", "True", "no", "none", "false", "FALSE", " 0 ", "maybe", "-x"]
NUMBERS = ["", "0", "-1", "+1", "1.5", "x", "0x10", "99999999999999999999", "-99999999999999999999", " 1", "1_0", "٣"]
TIMES = [
    *("", "0", "1", "1.5", "-1", "x", "2006-01-02", "2006-01-02T15:04", "2006-01-02T15:04:05Z", "10m", "1h30", "1.x"),
    *("99999999999999999999", "1.1234567890", "2006-01-02T15:04:05+02:00", "2006-13-02", "2006-01-02 15:04:05"),
]
TEXTS = ["", "x", "a b", "/", "é", "-x", "{}", "[]", "null", '{"os":"linux"}', "linux/amd64", "a/b/c/d", "NO*"]
FILTERS = [
    *("", "null", "{}", "[]", "x", "5", '"x"', "{", '{"label":"x"}', '{"label":5}', '{"label":[5]}', '{"label":null}'),
    *('{"label":["x"]}', '{"label":{"x":true}}', '{"label":{"x":false}}', '{"label":{"x":1}}', '{"label":[]}'),
    *('{"LABEL":["x"]}', '{"nope":["x"]}', '{"nope":[]}', '{"nope":{}}', '{"label!":["x"]}', '{"label":["x"]} y'),
    *('{"label":["x"],"nope":{"x":true}}', '{"label":[null]}', '{"label":{"x":null}}', '{"label":["x"],"label":["y"]}'),
]
FILTER_VALUES = ["x", "", "true", "maybe", "1", "10m", "2006-01-02", "-1", "99999", "80/tcp", "80-70", "kinds"]
BOTH = ["8", "9"]
"""Two values; which of them Docker names, or in which order, is left to chance, so neither stands in an answer."""
BOTH_OF_NOBODY = ["8g", "9g"]
"""The same where a value may be the beginning of an id: no id has a g."""
PREFIXES = ("before", "since", "ancestor", "id")
"""Filters whose value may be the beginning of an id, which is left to chance."""
FILTER_NAMES = {
    "GET /containers/json": "ancestor before expose exited health id isolation is-task label name network publish "
    "since status volume",
    "POST /containers/prune": "until label label! dangling",
    "GET /images/json": "before dangling label reference since until label! is-official",
    "POST /images/prune": "dangling until label label! reference",
    "GET /images/search": "is-automated is-official stars",
    "POST /build/prune": "until id parent type description inuse shared private label label! unused-for",
    "GET /events": "config container daemon event image label network node plugin scope secret service type volume",
    "GET /volumes": "dangling driver label name",
    "POST /volumes/prune": "label label! all until",
    "GET /networks": "dangling driver id label name scope type",
    "POST /networks/prune": "until label label! dangling",
}
BODIES = ["", "null", "{}", "[]", "5", '"x"', "true", "{", "{} x", "{}{}", "[{}]", '{"a"}', " ", "{}\n"]
VALUES: dict[str, Any] = {"number": 5, "text": "x", "truth": True, "list": [], "object": {}, "null": None, "one": ["x"]}
TYPES = ["", "application/json", "application/json; charset=utf-8", "text/plain", "application/x-tar", "x", "a/b/c;"]

# What stands in a path's braces; what a request has beside the parameter in question, so that it ends and harms nobody.
NOBODY, UNMADE, NOT_HERE = "nope-kinds", "kinds-none", {"label": ["nobody-kinds"]}
HARMLESS: dict[str, dict[str, str]] = {
    "GET /events": {"since": "1", "until": "2"},
    "POST /build": {"remote": "nope-kinds"},
    "POST /images/create": {"fromImage": "nope-kinds:5000/UPPER"},
    "GET /images/get": {"names": NOBODY},
    "POST /commit": {"container": NOBODY},
    "GET /containers/{id}/logs": {"stdout": "1"},
    "GET /images/search": {"term": ""},
}
EXISTING = ("GET /containers/{id}/json", "GET /containers/{id}/logs", "GET /containers/{id}/top",
            "GET /images/{name}/json", "GET /images/{name}/history", "GET /networks/{id}", "GET /volumes/{name}",
            "POST /containers/{id}/update", "POST /containers/{id}/exec", "POST /containers/{id}/stop",
            "POST /containers/{id}/kill", "POST /containers/{id}/resize", "POST /networks/{id}/disconnect",
            "GET /containers/{id}/archive", "HEAD /containers/{id}/archive", "PUT /containers/{id}/archive",
            "GET /images/{name}/get")  # fmt: skip
BODY_ROUTES = ("POST /containers/{id}/start", "POST /containers/{id}/stop", "POST /containers/{id}/resize",
               "POST /exec/{id}/resize", "POST /containers/{id}/wait", "POST /containers/prune")  # fmt: skip
KIND = {
    **dict.fromkeys(("limit", "h", "w", "t", "timeout", "version", "tail"), NUMBERS),
    **dict.fromkeys(("memory", "memswap", "cpushares", "cpuperiod", "cpuquota", "shmsize"), NUMBERS),
    **dict.fromkeys(("keep-storage", "reserved-space", "max-used-space", "min-free-space"), NUMBERS),
    **dict.fromkeys(("since", "until"), TIMES),
}
TEXTUAL = {
    *("ps_args", "signal", "name", "condition", "path", "detachKeys", "platform", "platforms", "tag", "repo"),
    *("author", "changes", "container", "type", "names", "term", "remote", "fromImage", "fromSrc", "message", "scope"),
    *("dockerfile", "extrahosts", "cachefrom", "buildargs", "labels", "networkmode", "target", "outputs"),
    *("cpusetcpus", "registryAuthFrom", "comment"),
}
ELSEWHERE = {  # asked with care by test_parameters.py: a value that is taken would never end, or end something
    "GET /images/get": ("names",),
    "POST /build": ("t", "remote"),
    "POST /images/create": ("fromImage", "fromSrc"),
    "GET /images/search": ("term",),
    "POST /containers/{id}/kill": ("signal",),
    "GET /containers/{id}/archive": ("path",),
    "GET /containers/{id}/logs": ("follow",),
    "GET /events": ("since", "until"),
}
FOREIGN = ("/plugins", "/nodes", "/swarm", "/services", "/tasks", "/secrets", "/configs", "/session", "/grpc")


def values_of(route: str, name: str) -> list[str]:
    """Return the texts that a query parameter is given."""
    if name == "filters":
        more = [
            json.dumps({**(NOT_HERE if "prune" in route and key != "label" else {}), key: found})
            for key in FILTER_NAMES.get(route, "").split()
            for found in [
                *([value] for value in FILTER_VALUES if value != "1" or key not in PREFIXES),
                BOTH_OF_NOBODY if key in PREFIXES else BOTH,
            ]
        ]
        return [*FILTERS, *more]
    return KIND.get(name) or (TEXTS if name in TEXTUAL else TRUTHS)


def queries() -> dict[str, list[dict[str, Any]]]:
    """Return the requests for each parameter of a query, and for each kind of a whole body."""
    found: dict[str, list[dict[str, Any]]] = {}
    for route, parameters in SPECIFICATION.items():
        method, path = route.split(" ")
        if path.startswith(FOREIGN):
            continue
        targets = [NOBODY, NAME] if route in EXISTING else [NOBODY]
        for kind, _, name in (parameter.partition(" ") for parameter in parameters):
            if kind != "query" or name in ELSEWHERE.get(route, ()):
                continue
            for target in targets if "{" in path else [""]:
                key = f"{route} {name}{' of one that exists' if target == NAME else ''}"
                found[key] = [
                    request(method, path, target, {**HARMLESS.get(route, {}), name: text})
                    for text in values_of(route, name)
                    if not harmful(route, text)
                ]
    return found


def harmful(route: str, text: str) -> bool:
    """Tell whether a prune with these filters would take what others have."""
    if "prune" not in route or not text.startswith("{"):
        return "prune" in route
    try:
        return "nobody-kinds" not in text and not ("nope" in text and json.loads(text).get("nope"))
    except ValueError:
        return "label" not in text


def request(
    method: str, path: str, target: str, query: dict[str, str], body: str | None = None, **headers: str
) -> dict[str, Any]:
    """Return one request as data."""
    url = re.sub(r"\{\w+\}", target, path) + ("?" + urllib.parse.urlencode(query) if query else "")
    return {"method": method, "url": url, "body": body, "headers": headers}


def bodies() -> dict[str, list[dict[str, Any]]]:
    """Return the requests for each field of a body, and for bodies that are none."""
    found: dict[str, list[dict[str, Any]]] = {}
    for route, parameters in SPECIFICATION.items():
        method, path = route.split(" ")
        fields = [name.removeprefix("body ") for name in parameters if name.startswith("body ")]
        if path.startswith(FOREIGN) or (not fields and route not in BODY_ROUTES) or route == "POST /auth":
            continue
        query = dict(HARMLESS.get(route, {})) if "prune" not in path else {"filters": json.dumps(NOT_HERE)}
        target = NAME if route in EXISTING and "disconnect" not in route else NOBODY
        found[f"{route} body"] = [
            request(method, path, NOBODY, query, body, **{"Content-Type": "application/json"}) for body in BODIES
        ]
        found[f"{route} content type"] = [
            request(method, path, NOBODY, query, body, **({"Content-Type": text} if text else {}))
            for text in TYPES
            for body in ("{}", "")
        ]
        for field in fields:
            found[f"{route} {field}"] = [
                request(method, path, target, query, text, **{"Content-Type": "application/json"})
                for text in written(route, field)
            ]
    return found


def written(route: str, field: str) -> list[str]:
    """Return bodies with every type of JSON at one field, and the field's name in capitals once."""
    base: dict[str, Any] = {"Image": NOBODY} if route == "POST /containers/create" else {}
    if route == "POST /volumes/create":
        base = {"Driver": NOBODY}
    if route == "POST /networks/create":
        base = {"Name": UNMADE, "Driver": NOBODY}
    if route == "POST /networks/{id}/connect":
        base = {"Container": NOBODY}
    if route == "POST /containers/{id}/exec":
        base = {"Cmd": []}
    texts = [json.dumps(merged(base, placed(field.split("."), value))) for value in VALUES.values()]
    return [*texts, json.dumps(placed(field.upper().split("."), [[1]]))]


def placed(steps: list[str], value: Any) -> Any:
    """Return {"a": {"b": value}} for a, b; `[]` behind a name is a list around, `{}` an object with a name "k"."""
    if not steps:
        return value
    name, inner = steps[0], placed(steps[1:], value)
    while name.endswith(("[]", "{}")):
        name, inner = name[:-2], [inner] if name.endswith("[]") else {"k": inner}
    return {name: inner}


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    return {**base, **over}


def cases() -> dict[str, list[dict[str, Any]]]:
    return {**queries(), **bodies()}


def ask(connection: UnixConnection, case: dict[str, Any]) -> tuple[int, str]:
    """Send one request on a connection that is kept; return the status, and of a refusal the words."""
    connection.request(case["method"], "/v1.51" + case["url"], (case["body"] or "").encode() or None, case["headers"])
    response = connection.getresponse()
    text = response.read().decode("utf-8", "replace")
    if response.will_close:
        connection.close()
    if response.status < 400 and '"errorDetail"' not in text:
        return response.status, ""
    try:
        message = json.loads(text.splitlines()[-1])
        text = str(message.get("message") or message["error"])
    except (ValueError, KeyError, IndexError, AttributeError):
        pass
    if any(json.dumps(both) in urllib.parse.unquote_plus(case["url"]) for both in (BOTH, BOTH_OF_NOBODY)):
        text = re.sub("[89]g?", "N", text)
    text = re.sub(r"https://index\.docker\.io/\S*: .*", "<outside>", text)
    return response.status, re.sub(r"[0-9a-f]{64}", "<id>", text)


def stage(connection: UnixConnection) -> None:
    """Make an image, a container, a network and a volume, all named `kinds`."""

    def call(method: str, path: str, body: Any = None, kind: str = "application/json") -> None:
        connection.request(method, path, body, {"Content-Type": kind})
        response = connection.getresponse()
        text = response.read()
        assert response.status < 400, (path, text)

    call("POST", f"/images/create?fromSrc=-&repo={NAME}", busybox.root_tar(), "application/x-tar")
    call("POST", f"/containers/create?name={NAME}", json.dumps({"Image": NAME, "Cmd": ["true"]}))
    call("POST", "/networks/create", json.dumps({"Name": NAME, "Internal": True}))
    call("POST", "/volumes/create", json.dumps({"Name": NAME}))


def strike(connection: UnixConnection) -> None:
    """Remove what `stage` made."""
    for path in (*(f"{noun}/{NAME}" for noun in ("containers", "networks", "volumes", "images")), f"networks/{UNMADE}"):
        connection.request("DELETE", f"/{path}")
        connection.getresponse().read()


def main() -> None:
    connection = UnixConnection(sys.argv[1], TIMEOUT_S)
    answers: dict[tuple[int, str], int] = {}
    rows: dict[str, list[int]] = {}
    stage(connection)
    try:
        for key, requests in cases().items():
            rows[key] = []
            for case in requests:
                try:
                    answer = ask(connection, case)
                except TimeoutError:
                    raise SystemExit(f"no answer to {case}") from None
                rows[key].append(answers.setdefault(answer, len(answers)))
    finally:
        connection.close()
        strike(connection)
    known = ",\n".join(json.dumps(answer, ensure_ascii=False) for answer in answers)
    table = ",\n".join(f"{json.dumps(key)}: {json.dumps(row)}" for key, row in rows.items())
    print(f'{{"answers": [\n{known}\n],\n"cases": {{\n{table}\n}}}}')


if __name__ == "__main__":
    main()
