"""Odd layers and odd images: what a container of them has is what it has with Docker Engine 28.5.2, or better.

layer_answers.json holds what was recorded (record_layers.py). Refusals are compared as refusals, not by their words.
"""

from __future__ import annotations

import json

import pytest

from tests.compat import record_layers
from tests.support.engine import Engine

pytestmark = [pytest.mark.root]
RECORDED: dict[str, dict[str, str]] = json.loads(record_layers.ANSWERS.read_text())
FILE = {"/f": "0 644 0:0 then b'content'"}
REFUSED = {"refused": ""}
BELOW = {"/f": "0 644 0:0 now b'base'", "/l": "2 777 0:0 now -> d"}

# What is otherwise than with Docker: what it is, and why.
OURS: dict[str, tuple[dict[str, str], str]] = {
    "gzip, cut": (REFUSED, "Docker reads no further than the end of the archive inside"),
    "gzip, wrong checksum": (REFUSED, "Docker reads no further than the end of the archive inside"),
    "a file twice": ({"/f": "0 600 0:0 then b'second'"}, "Docker's record of the archive cannot hold it"),
    "a directory, then a file": ({"/p": "0 644 0:0 then b'file'"}, "as above"),
    "a file, then a directory": ({"/p": "5 755 0:0 then", "/p/q": "0 644 0:0 then b''"}, "as above"),
    "a directory twice": ({"/p": "5 751 0:0 now", "/p/q": "0 644 0:0 then b''"}, "as above"),
    "a hard link to a symlink": (
        {"/h": "2 777 0:0 then -> r", "/s": "2 777 0:0 then -> r"},
        "the export names both links",
    ),
    "a hard link to itself": (FILE, "nothing is to be done"),
    "an id of 2^32-1": (REFUSED, "the kernel has no such id"),
    "an id above 2^32": (REFUSED, "Docker takes another user's number for it"),
    "sparse, old GNU": ({"/sparse": "0 644 0:0 then 2000 bytes"}, "Docker does not know the format in a layer"),
    "a whiteout, then the same again": (
        {"/d": "5 755 0:0 then", "/d/x": "0 644 0:0 then b'x'", **BELOW},
        "a whiteout hides what is below, also when the name comes again",
    ),
    "the same again, then a whiteout": (
        {"/d": "5 755 0:0 then", "/d/x": "0 644 0:0 then b'x'", **BELOW},
        "a whiteout hides what is below, whatever the order",
    ),
    "xattrs": ({"/f": "0 644 0:0 then SCHILY.xattr.user.one=1 b'x'"}, "Docker's export leaves them out"),
    "an index": (FILE, "Docker's image store reads manifest.json only"),
    "an index that lists the manifest twice": (FILE, "as above"),
    "an index with a wrong layer digest": (FILE, "as above; the layer is checked by its diff id"),
}


def test_the_cases_are_those_that_were_recorded() -> None:
    assert list(RECORDED) == list(record_layers.cases())
    assert OURS.keys() <= RECORDED.keys()


def test_every_case_is_as_with_docker(shared_engine: Engine) -> None:
    unlike = {}
    for name, case in record_layers.cases().items():
        ours = record_layers.play(shared_engine, case)
        wanted = OURS[name][0] if name in OURS else RECORDED[name]
        if ours != wanted and not ("refused" in ours and "refused" in wanted):
            unlike[name] = {"wanted": wanted, "ours": ours}
    assert not unlike, json.dumps(unlike, indent=1)
