"""The name service and the supervisor are killed at any moment of what changes names: everything converges.

SAMPAN_KILLS: how many are killed; SAMPAN_SEED: when, and which.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable

import pytest

from tests.support import dns
from tests.support.engine import Engine, until

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("root")]

KILLS = int(os.environ.get("SAMPAN_KILLS", "6"))
SEED = os.environ.get("SAMPAN_SEED", "1")
NET = "killed-net"


def changes(engine: Engine, n: int) -> list[Callable[[], object]]:
    """What is on its way when somebody is killed."""
    name = f"other-{n}"
    return [
        lambda: engine.request("POST", f"/networks/{NET}/connect", {"Container": "beside"}),
        lambda: engine.request("POST", f"/networks/{NET}/disconnect", {"Container": "beside", "Force": True}),
        lambda: engine.request("POST", "/containers/moves/rename", name="moved"),
        lambda: engine.request("POST", "/containers/moved/rename", name="moves"),
        lambda: engine.run("sleep", "1000", name=name, NetworkMode=NET),
        lambda: engine.request("DELETE", f"/containers/{name}", force=1),
    ]


def expected(engine: Engine) -> dict[str, str]:
    """Who should answer to which name, by what the API says."""
    found = {}
    for shown in engine.call("GET", "/containers/json", all="1"):
        one = engine.inspect(shown["Id"])
        on = one["NetworkSettings"]["Networks"].get(NET)
        if one["State"]["Running"] and on is not None:
            found[one["Name"].strip("/")] = on["IPAddress"]
    return found


def test_whoever_is_killed_names_converge(engine: Engine) -> None:
    dice = random.Random(SEED)
    engine.call("POST", "/networks/create", {"Name": NET})
    for name, network in (("asks", NET), ("moves", NET), ("beside", "bridge")):
        engine.run("sleep", "1000", name=name, NetworkMode=network)
    inside = dns.Inside(engine.inspect("asks")["State"]["Pid"])
    known = {"moves", "moved", "beside"}

    def agreed() -> bool:
        should = expected(engine)
        for name in known | set(should):
            where = [should[name]] if name in should else []
            if inside.addresses(name, timeout_s=1.0) != where:
                return False
        return True

    try:
        for n in range(KILLS):
            work = dice.choice(changes(engine, n))
            known.add(f"other-{n}")
            if dice.random() < 0.5:  # the removal of the last that was started, or of nobody
                work = dice.choice(changes(engine, n - 1))
            victim = dice.choice(["names", "names", "sampan-supervisor"])
            wait = dice.random() * 0.06

            def changing(work: Callable[[], object] = work) -> None:
                with contextlib.suppress(Exception):  # the supervisor may be away: the API says so
                    work()

            thread = threading.Thread(target=changing)
            thread.start()
            time.sleep(wait)
            pid_file = engine.exec_root / "names" / "names.pid"
            with contextlib.suppress(ProcessLookupError, AssertionError):
                os.kill(int(pid_file.read_text()) if victim == "names" else engine.pid_of(victim), signal.SIGKILL)
            thread.join(30)
            assert not thread.is_alive(), (n, victim)
            until(agreed, 20, f"names agree with what is, after {victim} was killed ({n})")
        for shown in engine.call("GET", "/containers/json", all="1"):
            engine.remove(shown["Id"])
        assert list((engine.exec_root / "names").glob("*.json")) == []
        engine.call("DELETE", f"/networks/{NET}")
        titles = sorted(line.split()[0] for line in engine.pids().values() if "names" in line.split()[0])
        assert titles in ([], ["sampan-names"]), titles
    finally:
        inside.close()
