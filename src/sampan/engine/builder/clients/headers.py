"""How headers of HTTP/2 are written to BuildKit's clients: as they are, without Huffman coding.

hpack codes a value bit by bit into one large integer, on the event loop: 70 KiB, which the details of an error have
that quote a Dockerfile, take seconds, and twice as many take four times as long. Nothing is gained by it on a socket of
this machine.

Source: RFC 7541, section 5.2: the H bit says which of the two a string is.
"""

from __future__ import annotations

from functools import partial

import hpack


def plain_encoder() -> hpack.Encoder:
    """Return an encoder of hpack's that never sets the H bit."""
    made = hpack.Encoder()
    made.encode = partial(made.encode, huffman=False)
    return made
