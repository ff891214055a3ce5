"""Which networks a container's default routes lead to, beside Docker Engine 28.5.2: when it starts, and while it runs.

default_routes.json is its record (default_routes.py made it).
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e import default_routes
from tests.support.engine import Engine

RECORDED = json.loads(default_routes.ANSWERS.read_text())


@pytest.fixture(scope="module")
def engine(shared_engine: Engine) -> Iterator[Engine]:
    with default_routes.parent():
        try:
            default_routes.networks(shared_engine)
            yield shared_engine
        finally:
            for name in default_routes.NETWORKS:
                shared_engine.request("DELETE", f"/networks/{name}")


def test_the_stories_are_those_recorded() -> None:
    assert list(RECORDED) == default_routes.STORIES


@pytest.mark.parametrize("story", RECORDED)
def test_default_routes_lead_where_docker_leads_them(engine: Engine, story: str) -> None:
    assert default_routes.play(engine, story) == RECORDED[story]
