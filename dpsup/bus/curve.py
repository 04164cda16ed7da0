# SPDX-License-Identifier: BSD-3-Clause
"""Pairs of CURVE keys, and the sockets that use them. Keys are the 40 characters of Z85."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import zmq

_KEY = re.compile(r"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
DOMAIN = b"gate"  # of ZAP: who asks for it is asked who it is
HANDSHAKE_MS = 5000  # for a peer to say who it is


@dataclass(frozen=True, slots=True)
class Pair:
    public: str
    secret: str


@dataclass(frozen=True, slots=True)
class Identity:
    """What a client needs: its own pair, and the public key of the host that it asks."""

    pair: Pair
    server: str


def is_key(text: object) -> bool:
    return isinstance(text, str) and _KEY.fullmatch(text) is not None


def new_pair() -> Pair:
    public, secret = zmq.curve_keypair()
    return Pair(public.decode(), secret.decode())


def public_of(secret: str) -> str:
    return zmq.curve_public(secret.encode()).decode()


def serve(socket: Any, pair: Pair) -> None:
    """Only peers whose keys the ZAP handler accepts; where it is dead, none: without
    ZAP_ENFORCE_DOMAIN, ZeroMQ would let every key in."""
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret.encode())
    socket.setsockopt(zmq.CURVE_PUBLICKEY, pair.public.encode())
    socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)


def present(socket: Any, identity: Identity) -> None:
    """A client says who it is, and wants that very host."""
    socket.setsockopt(zmq.CURVE_SERVERKEY, identity.server.encode())
    socket.setsockopt(zmq.CURVE_PUBLICKEY, identity.pair.public.encode())
    socket.setsockopt(zmq.CURVE_SECRETKEY, identity.pair.secret.encode())
