"""Record what an engine answers to bad (and some good) input: `python -m tests.api.record SOCKET >
tests/api/answers.json`.

The answers in the repository are those of Docker Engine 28.5.2. A case is data; add one, record again. No case may
change anything: what could succeed is aimed at things that do not exist.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from tests.support.engine import UnixConnection

J = {"Content-Type": "application/json"}
Case = dict[str, Any]


def bad_json(path: str, *bodies: str) -> list[Case]:
    return [{"method": "POST", "path": path, "headers": J, "body": body} for body in bodies]


def plain(method: str, *paths: str, headers: dict[str, str] | None = None, body: str | None = None) -> list[Case]:
    return [{"method": method, "path": path, "headers": headers or {}, "body": body} for path in paths]


CREATE = "/v1.51/containers/create"
IMAGE = '{"Image":"busybox",'
CASES: list[Case] = [
    # malformed JSON
    *bad_json(CREATE, "{", "[]", '"x"', "5", "null", "nul", "{Image}", '{"a":tru}', '{"a":01}', '{"a":-}', '{"a":1.}',
              '{"a":1e}', '{"a":"\\x"}', '{"a":"\n"}', '{"a":[1,]}', '{"a":[1 2]}', '{"a":"\\u12g4"}',
              '{"Image":"nope"} x',
              '{"Image":"nope",}', '{"Image" "nope"}', "", "@nested", "@garbage", "@xs", "\ufeff{}"),
    # wrong types
    *bad_json(CREATE, '{"Image":5}', '{"Tty":"x"}', '{"Cmd":5}', '{"Cmd":[5]}', '{"Entrypoint":{}}', '{"Labels":[]}',
              '{"Labels":{"a":1}}', '{"ExposedPorts":{"80/tcp":1}}', '{"ExposedPorts":["80"]}', '{"Volumes":{"a":5}}',
              '{"StopTimeout":"x"}', '{"Healthcheck":{"Interval":"1s"}}', '{"Healthcheck":1}', '{"OnBuild":1}',
              '{"MacAddress":5}', '{"HostConfig":5}', '{"HostConfig":[]}', '{"NetworkingConfig":1}',
              '{"NetworkingConfig":{"EndpointsConfig":{"a/~b":{"DriverOpts":"x"}}}}',
              '{"NetworkingConfig":{"EndpointsConfig":[]}}', '{"Tty":1,"Hostname":2}'),
    *bad_json(CREATE, *(f'{{"HostConfig":{body}}}' for body in (
        '{"Memory":"x"}', '{"Memory":1.5}', '{"Memory":1e3}', '{"Memory":true}', '{"Memory":99999999999999999999}',
        '{"Memory":-9223372036854775809}', '{"BlkioWeight":70000}', '{"Binds":"x"}', '{"Binds":[1]}', '{"Init":"x"}',
        '{"PortBindings":{"80/tcp":{}}}', '{"PortBindings":{"80/tcp":[{"HostPort":80}]}}', '{"RestartPolicy":"always"}',
        '{"RestartPolicy":{"MaximumRetryCount":"1"}}', '{"Mounts":[{"Type":1}]}', '{"Mounts":[{"BindOptions":5}]}',
        '{"Mounts":[{"TmpfsOptions":{"Mode":4294967296}}]}', '{"ConsoleSize":[-1,2]}', '{"ConsoleSize":{}}',
        '{"Ulimits":[{"Hard":"x"}]}', '{"PidsLimit":"x"}', '{"DeviceRequests":[{"Capabilities":["x"]}]}',
        '{"LogConfig":{"Config":{"a":1}}}', '{"IOMaximumIOps":-1}', '{"NetworkMode":1}'))),
    *bad_json("/v1.51/containers/nope/update", '{"Memory":"x"}', '{"RestartPolicy":"x"}', '{"Devices":[1]}', "[]"),
    *bad_json("/v1.51/containers/nope/exec", '{"Cmd":5}', '{"Env":[1]}', '{"ConsoleSize":[1,"x"]}', "{}", '"x"'),
    *bad_json("/v1.51/exec/nope/start", '{"Detach":1}', '"x"', "{}"),
    *bad_json("/v1.51/volumes/create", '{"Name":5}', '{"DriverOpts":{"a":1}}', '{"Labels":[]}', "{}x"),
    *bad_json("/v1.51/networks/create", '{"Name":5}', '{"IPAM":{"Config":[{"Subnet":1}]}}', '{"EnableIPv6":1}'),
    *bad_json("/v1.51/networks/nope/connect", '{"Container":1}', '{"EndpointConfig":{"Links":1}}'),
    *bad_json("/v1.51/commit", '{"Cmd":1}', '{"Hostname":1}'),
    *bad_json("/v1.51/auth", '{"username":5}', "[]"),
    # unknown enum values, absurd sizes, bad names
    *bad_json(CREATE, *(IMAGE + f'"HostConfig":{body}}}' for body in (
        '{"RestartPolicy":{"Name":"sometimes"}}', '{"RestartPolicy":{"Name":"always","MaximumRetryCount":3}}',
        '{"RestartPolicy":{"Name":"on-failure","MaximumRetryCount":-1}}', '{"Memory":1}',
        '{"Memory":6291456,"MemorySwap":6291455}', '{"NanoCpus":1000000000000000}', '{"CpuShares":-1}',
        '{"MemorySwappiness":101}', '{"ShmSize":-1}', '{"OomScoreAdj":2000}', '{"IpcMode":"nope"}',
        '{"PidMode":"nope"}', '{"UTSMode":"nope"}', '{"CgroupnsMode":"nope"}',
        '{"Isolation":"nope"}', '{"Runtime":"nope"}', '{"CapAdd":["NOPE"]}', '{"LogConfig":{"Type":"nope"}}',
        '{"Binds":["rel/path:/x"]}', '{"Binds":["/tmp:x"]}', '{"Binds":["/tmp:/x:nope"]}',
        '{"Binds":["/tmp:/x","/var:/x"]}',
        '{"Mounts":[{"Type":"nope","Target":"/x"}]}', '{"Mounts":[{"Type":"bind","Target":"/x"}]}',
        '{"Mounts":[{"Type":"bind","Source":"/nope-nope","Target":"/x"}]}',
        '{"PortBindings":{"80/tcp":[{"HostPort":"99999"}]}}', '{"CpusetCpus":"x"}',
        '{"ExtraHosts":["x"]}', '{"Links":["nope:x"]}'))),
    *bad_json(CREATE, "{}", '{"HostConfig":{}}', '{"Image":"nope"}', '{"Image":"NOPE:bad:bad"}',
              IMAGE + '"WorkingDir":"rel"}',
              IMAGE + '"StopSignal":"NOPE"}', IMAGE + '"Env":["=x"]}',
              IMAGE + '"Healthcheck":{"Interval":1}}',
              IMAGE + '"MacAddress":"zz"}'),
    *bad_json(CREATE + "?name=a/b", '{"Image":"busybox"}'),
    *bad_json(CREATE + "?name=-a", '{"Image":"busybox"}'),
    *bad_json(CREATE + "?platform=x", '{"Image":"busybox"}'),
    *bad_json("/v1.51/volumes/create", '{"Name":"a/b"}', '{"Name":"a"}', '{"Name":"xx","Driver":"nope"}',
              '{"Name":"xx","DriverOpts":{"nope":"1"}}', '{"Name":"xx","DriverOpts":{"type":"tmpfs"}}',
              '{"Name":"xx","DriverOpts":{"size":"x"}}'),
    # queries
    *plain("GET", "/containers/json?limit=x", "/containers/json?filters=x", "/containers/json?filters=[]",
           '/containers/json?filters={"a":"b"}', '/containers/json?filters={"nope":["x"]}',
           '/containers/json?filters={"status":["nope"]}', "/containers/json?filters=%zz", "/containers/nope/json",
           "/containers/x%2fy/json", "/containers/nope/logs", "/containers/nope/logs?stdout=1", "/containers/nope/top",
           "/containers/nope/stats?stream=0", "/containers/nope/archive", "/containers/nope/archive?path=/",
           "/containers/nope/export", "/containers/nope/changes", "/exec/nope/json", "/events?since=x",
           "/events?since=2&until=1", "/events?since=1&until=2&filters={bad", "/system/df?type=nope",
           '/volumes?filters={"nope":["x"]}', '/volumes?filters={"dangling":["x"]}', "/volumes/nope", "/networks/nope",
           "/images/nope/json", "/images/json?filters=x", "/plugins", "/plugins/nope/json", "/swarm", "/services",
           "/nodes", "/tasks", "/secrets", "/configs"),
    *plain("POST", "/containers/nope/start", "/containers/nope/stop?t=x", "/containers/nope/stop",
           "/containers/nope/kill",
           "/containers/nope/kill?signal=99", "/containers/nope/restart", "/containers/nope/pause",
           "/containers/nope/unpause", "/containers/nope/wait", "/containers/nope/wait?condition=nope",
           "/containers/nope/resize?h=x&w=1", "/containers/nope/resize?h=1", "/containers/nope/resize?h=-1&w=1",
           "/containers/nope/resize?h=1&w=1", "/containers/nope/rename?name=", "/containers/nope/rename?name=x",
           "/containers/nope/attach?stream=1", "/exec/nope/resize?h=1&w=1", "/exec/nope/resize?h=1", "/commit",
           '/containers/prune?filters={"nope":["x"]}', '/volumes/prune?filters={"nope":["x"]}',
           '/volumes/prune?filters={"all":["x"]}', "/swarm/leave", "/plugins/nope/enable", "/nope"),
    *plain("DELETE", "/containers/nope", "/containers/nope?force=1", "/volumes/nope", "/volumes/nope?force=1",
           "/networks/nope", "/images/nope"),
    # wrong methods, paths, versions, content types
    *plain("PUT", "/info", "/containers/nope", "/containers/nope/archive", "/volumes/nope"),
    *plain("PATCH", "/info"),
    *plain("OPTIONS", "/info", "/nope"),
    *plain("GET", "/", "/nope", "/v1.51", "/v1.51/", "/v1.51/nope", "/v1.23/info", "/v1/info", "/v1.52/info",
           "/v9.0/info", "/v1.51.1/info", "/vx/info", "/containers/json/", "//info", "/containers//json"),
    *plain("POST", CREATE, headers={"Content-Type": "text/plain"}, body="{}"),
    *plain("POST", CREATE, headers={}, body=None),
]  # fmt: skip


def body_of(case: Case) -> bytes | None:
    """Expand the bodies that are too large to write down."""
    body = case["body"]
    if body == "@nested":
        return b'{"a":' + b"[" * 20_000
    if body == "@garbage":
        return bytes(range(128, 256)) * (10 * 1024 * 1024 // 128)
    if body == "@xs":
        return b"x" * (10 * 1024 * 1024)
    return None if body is None else body.encode()


def ask(socket: str, case: Case) -> dict[str, Any]:
    """Send one case; return status, content type and normalised body."""
    connection = UnixConnection(socket)
    try:
        path = re.sub(r"[^!-~]|[\"{}]", lambda m: f"%{ord(m[0]):02x}", case["path"])
        connection.putrequest(case["method"], path, skip_accept_encoding=True)
        body = body_of(case)
        for name, value in case["headers"].items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        if body:
            try:
                connection.send(body)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the engine has answered before the end: it did not need to read on
        response = connection.getresponse()
        text = response.read().decode("utf-8", "replace")
        return {
            "status": response.status,
            "type": response.headers.get("Content-Type", ""),
            "body": re.sub(r"[0-9a-f]{64}", "<id>", text),
        }
    finally:
        connection.close()


def main() -> None:
    answers = [{**case, "answer": ask(sys.argv[1], case)} for case in CASES]
    lines = ",\n".join(json.dumps(a, ensure_ascii=False) for a in answers)
    print(f"[\n{lines}\n]")


if __name__ == "__main__":
    main()
