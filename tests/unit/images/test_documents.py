"""What comes from outside as an image: each field has its type, or the document is refused by name.

Verdicts and words: Docker Engine 28.5.2, `load` of an archive with such a configuration (time texts are ours).
"""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from sampan.errors import SampanError
from sampan.spec import image_document

DIFF_ID = "sha256:" + "0" * 64
DOCUMENT: dict[str, Any] = {
    "architecture": "amd64", "os": "linux", "created": "2024-01-01T00:00:00Z", "author": "a", "docker_version": "1",
    "config": {
        "Cmd": ["/x"], "Env": ["A=b"], "Labels": {"a": "b"}, "Volumes": {"/v": {}}, "ExposedPorts": {"80/tcp": {}},
        "Healthcheck": {"Test": ["CMD", "x"], "Interval": 5}, "StopTimeout": 5, "User": "0", "WorkingDir": "/",
    },
    "rootfs": {"type": "layers", "diff_ids": [DIFF_ID]},
    "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "x"}, {"empty_layer": True}],
}  # fmt: skip
ARRAY, OBJECT, STRING, NUMBER = [["a"], {"a": 1}, "text", 7]


def with_(path: str, value: Any) -> bytes:
    """The document with another value at a path of keys."""
    found = copy.deepcopy(DOCUMENT)
    *above, last = path.split("/")
    place = found
    for key in above:
        place = place.setdefault(key, {})
    place[last] = value
    return json.dumps(found).encode()


REFUSED = [
    ("created", "yesterday", "time"), ("created", "", "time"), ("created", "2024-02-30T00:00:00Z", "time"),
    ("created", NUMBER, "number into Go struct field Image.created of type time.Time"), ("Created", "nodate", "time"),
    ("author", ARRAY, "array into Go struct field Image.author of type string"),
    ("os.features", STRING, r"Image.os.features of type \[\]string"), ("architecture", NUMBER, "Image.architecture"),
    ("os", ARRAY, "Image.os"), ("variant", NUMBER, "Image.variant"), ("os.version", NUMBER, "Image.os.version"),
    ("docker_version", NUMBER, "docker_version"), ("container", NUMBER, "container"), ("comment", OBJECT, "comment"),
    ("config", [], "array into Go struct field Image.config of type container.Config"), ("config", STRING, "config"),
    ("config/Labels", ARRAY, r"Image.config.Labels of type map\[string\]string"),
    ("config/Labels", OBJECT, "number into Go struct field Image.config.Labels.a of type string"),
    ("config/Volumes", ARRAY, r"Image.config.Volumes of type map\[string\]struct {}"),
    ("config/Volumes", {"/v": 1}, r"Image.config.Volumes.~1v of type struct {}"),
    ("config/ExposedPorts", ARRAY, "Image.config.ExposedPorts of type nat.PortSet"),
    ("config/Env", STRING, r"Image.config.Env of type \[\]string"), ("config/Env", [1], "Image.config.Env.0 of type"),
    ("config/Env", OBJECT, "Env"), ("config/Cmd", [1], "array into Go value of type string"), ("config/Cmd", {}, "Go"),
    ("config/OnBuild", STRING, "OnBuild"), ("config/User", 0, "User"), ("config/WorkingDir", ARRAY, "WorkingDir"),
    ("config/StopSignal", 9, "StopSignal"), ("config/StopTimeout", "9", "StopTimeout of type int"),
    ("config/StopTimeout", 1.5, "number 1.5 into"), ("config/Tty", "yes", "Image.config.Tty of type bool"),
    ("config/Healthcheck", [], "v1.HealthcheckConfig"), ("config/Healthcheck/Test", "x", r"Healthcheck.Test of type"),
    ("config/Healthcheck/Interval", "5s", "time.Duration"), ("config/Hostname", 1, "Hostname"),
    ("container_config", [], "Image.container_config"), ("container_config", {"Cmd": 5}, "number into Go value"),
    ("history", ["x"], r"string into Image.history.0 of type v1.History"), ("history", {}, r"of type \[\]v1.History"),
    ("history", [{"created": "x"}], "time"), ("history", [{"created_by": ["x"]}], "Image.history.0.created_by"),
    ("history", [{"empty_layer": "no"}], "bool"), ("history", [{"comment": 1}], "comment"),
    ("rootfs", [], "image.RootFS"), ("rootfs", None, "no RootFS key"), ("rootfs/diff_ids", "x", r"\[\]layer.DiffID"),
    ("rootfs/diff_ids", [1], "Image.rootfs.diff_ids.0 of type layer.DiffID"), ("rootfs/type", 5, "Image.rootfs.type"),
    ("id", 5, "Image.id"), ("parent", 5, "Image.parent of type image.ID"), ("Size", "x", "Image.Size of type int64"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "words"), REFUSED)
def test_a_field_of_the_wrong_type_is_refused_by_its_name(path: str, value: Any, words: str) -> None:
    with pytest.raises(SampanError, match=words):
        image_document.read(with_(path, value))


@pytest.mark.parametrize(
    ("path", "value", "seen"),
    [
        ("created", None, None), ("os", "", ""), ("config", None, None), ("config/Labels", {"a": None}, {"a": ""}),
        ("config/Volumes", {"/v": None, "/w": {"x": 1}}, {"/v": {}, "/w": {}}), ("config/Env", [None], [""]),
        ("config/ExposedPorts", {"bad/port": {}}, {"bad/port": {}}), ("config/Cmd", "sh", ["sh"]),
        ("config/Entrypoint", "sh", ["sh"]), ("config/Shell", "sh", ["sh"]), ("config/Unknown", [1], [1]),
        ("history", None, None), ("history", [None], [{}]), ("history", [], []), ("rootfs/type", "other", "other"),
        ("config/cMD", ["y"], None),
    ],
)  # fmt: skip
def test_what_go_takes_is_taken_as_go_sees_it(path: str, value: Any, seen: Any) -> None:
    found: Any = image_document.read(with_(path, value))
    if path == "config/cMD":
        assert found["config"]["Cmd"] == ["y"], "keys match whatever their case, the last one wins"
        return
    for key in path.split("/"):
        found = found[key]
    assert found == seen


@pytest.mark.parametrize("raw", [b"", b"null", b"[]", b"{", b'{"a":' + b"[" * 20000, b'"x"', b"{}x", b"\xff{}", b"{}"])
def test_what_is_no_document_is_refused(raw: bytes) -> None:
    with pytest.raises(SampanError):
        image_document.read(raw)
