"""The channel to the supervisor finds its own directory again, whatever has taken the numbers of closed descriptors."""

from __future__ import annotations

import asyncio
import gc
import os
import re
from pathlib import Path

import sampan
from sampan.supervisor.client import open_channel


def test_a_closed_channel_that_is_used_again_connects_to_its_own_supervisor(tmp_path: Path) -> None:
    connected: list[str] = []
    before = len(os.listdir("/proc/self/fd"))

    async def main() -> None:
        roots = [tmp_path / "own", tmp_path / "foreign"]
        servers = []
        both = asyncio.Event()
        for root in roots:
            root.mkdir()

            def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str = root.name) -> None:
                connected.append(name)
                writer.close()
                if len(connected) == 2:
                    both.set()

            servers.append(await asyncio.start_unix_server(accept, str(root / "supervisor.sock")))
        channel = open_channel(str(roots[0]))
        await channel.__connect__()
        channel.close()
        taken = [os.open(roots[1], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for _ in range(64)]
        await channel.__connect__()
        channel.close()
        for fd in taken:
            os.close(fd)
        await both.wait()
        for server in servers:
            server.close()

    asyncio.run(main())
    assert connected == ["own", "own"]
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before, "the directory is closed with the channel"


def test_who_listens_is_not_given_the_name_of_a_descriptor() -> None:
    """A name below /proc/self/fd that is kept is used when the number is another's: a bound socket is given instead."""
    kept = re.compile(r"(create_unix_\w+|start_unix_server|open_unix_connection)\([^()]*/proc/self/fd", re.S)
    root = Path(sampan.__file__).parent
    assert not [path for path in root.rglob("*.py") if kept.search(path.read_text())]
