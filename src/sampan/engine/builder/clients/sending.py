"""Results on their way to the client: a directory as fsutil packets, a file as a stream of bytes.

    we      STAT* STAT(empty)   DATA for what is asked   FIN
    client  REQ(number)*  FIN

Source: fsutil's packets; `FileSend` of BuildKit's session services.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from sampan.engine.builder.clients import rpc
from sampan.engine.builder.clients.filesync import FIN, TYPES
from sampan.engine.builder.clients.http2 import Stream, message
from sampan.engine.builder.trees import Tree, TreeEntry
from sampan.errors import Internal, Unavailable
from sampan.spec.buildkit import session_pb2
from sampan.spec.buildkit.filesync_pb2 import Packet, Stat

METHOD = "/moby.filesync.v1.FileSend/DiffCopy"
CHUNK = 32 * 1024
QUEUED_BYTES = 1024 * 1024
_KINDS = {kind: bits for bits, kind in TYPES.items()}


def fields(metadata: Mapping[str, str], exporter: int) -> list[tuple[str, str]]:
    """Return header fields: what the file is, and which of the client's outputs it is for."""
    described = [(f"exporter-md-{key}", value) for key, value in metadata.items() if value.isascii()]
    return [*described, ("buildkit-attachable-exporter-id", str(exporter))]


async def send_file(stream: Stream, chunks: AsyncIterator[bytes]) -> None:
    """Send bytes. Raises: Internal when the client cannot write them, Unavailable when it has gone."""
    try:
        async for chunk in chunks:
            for at in range(0, len(chunk), 1024 * 1024):
                part = session_pb2.BytesMessage(data=chunk[at : at + 1024 * 1024])
                stream.write(message(part.SerializeToString()))
            await stream.drain(QUEUED_BYTES)
        await stream.drain()
        stream.end()
        while await stream.batch():
            pass
        rpc.check(stream)
    except ConnectionError as e:
        raise Unavailable(f"the client has gone: {e}") from e
    finally:
        stream.cancel()


async def send_tree(stream: Stream, tree: Tree) -> None:
    """Send every entry of a tree. Raises: Internal, Unavailable."""
    entries = sorted((await asyncio.to_thread(tree.entries)).values(), key=lambda entry: entry.path.split("/"))
    try:
        for entry in entries:
            stream.write(message(Packet(type=Packet.PACKET_STAT, stat=to_stat(entry)).SerializeToString()))
            await stream.drain(QUEUED_BYTES)
        stream.write(message(Packet(type=Packet.PACKET_STAT).SerializeToString()))
        while True:
            batch = await stream.batch()
            if not batch:
                rpc.check(stream)
                raise Internal("the client ended the transfer too early")
            for raw in batch:
                packet = Packet.FromString(raw)
                if packet.type == Packet.PACKET_REQ:
                    await _content(stream, tree, packet.ID, entries[packet.ID])
                elif packet.type == Packet.PACKET_ERR:
                    raise Internal(f"error from receiver: {packet.data.decode(errors='replace')}")
                elif packet.type == Packet.PACKET_FIN:
                    stream.write(FIN)
                    stream.end()
                    while await stream.batch():
                        pass
                    rpc.check(stream)
                    return
    except ConnectionError as e:
        raise Unavailable(f"the client has gone: {e}") from e
    finally:
        stream.cancel()


async def _content(stream: Stream, tree: Tree, number: int, entry: TreeEntry) -> None:
    file = await asyncio.to_thread(tree.open, entry.hardlink or entry.path)
    try:
        while data := await asyncio.to_thread(file.read, QUEUED_BYTES):
            parts = (data[at : at + CHUNK] for at in range(0, len(data), CHUNK))
            stream.write(
                b"".join(
                    message(Packet(type=Packet.PACKET_DATA, ID=number, data=part).SerializeToString()) for part in parts
                )
            )
            await stream.drain(QUEUED_BYTES)
    finally:
        file.close()
    stream.write(message(Packet(type=Packet.PACKET_DATA, ID=number).SerializeToString()))


def to_stat(entry: TreeEntry) -> Stat:
    """Return an entry in fsutil's words."""
    bits = entry.mode & 0o777 | _KINDS.get(entry.kind, 0)
    bits |= (entry.mode & 0o4000) << 12 | (entry.mode & 0o2000) << 12 | (entry.mode & 0o1000) << 11
    return Stat(
        path=entry.path,
        mode=bits,
        uid=entry.uid,
        gid=entry.gid,
        size=entry.size if entry.kind == "f" else 0,
        modTime=entry.mtime_ns,
        linkname=entry.link or entry.hardlink,
        devmajor=entry.device[0],
        devminor=entry.device[1],
        xattrs=dict(entry.xattrs),
    )
