# SPDX-License-Identifier: BSD-3-Clause
"""The messages of the bus, typed and versioned, and their limits. Pure: bytes in, values out.

A request names a verb and its arguments and carries an id; a request repeated with the same id gets
the same answer and is not carried out again. A publication carries its topic's sequence number, so
that a subscriber knows how many it missed.
"""

from __future__ import annotations

import json
import math
import re
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar, overload

from dpsup.errors import DpsupError, Exit, ShimError, UsageError

VERSION = 1
MAX_REQUEST = 64 << 10  # bytes
MAX_ORIGIN = 1 << 10  # bytes that the gate adds to a request
MAX_REPLY = 4 << 20
MAX_DEPTH = 16
MAX_ID = 64
FRAMES_MOST = 3  # of a request: its peer, an empty one, the request
TOPICS = ("event", "log", "stat")

Args = dict[str, object]  # of a request; `want` checks each
T = TypeVar("T")
D = TypeVar("D")

_REPLY_HEAD = b'{"v":%d,"id":' % VERSION  # as `_dump` writes it
_REPLY_ID = re.compile(re.escape(_REPLY_HEAD) + rb'"([0-9a-f]{1,64})"')
_VERB = re.compile(r"[a-z_]{1,32}")


class ProtocolError(DpsupError):
    """A message that does not follow the protocol."""

    code = "E0901"


class Peer(NamedTuple):
    """The process that connected, as the kernel knew it then. pid 0: of another pid namespace."""

    uid: int
    pid: int


def credentials_of(address: str) -> tuple[int, int, int] | None:
    """uid, gid and pid, as ZeroMQ's "Peer-Address" of an ipc connection has them:
    "localhost:UID:GID:PID"."""
    found = re.fullmatch(r".*:(\d{1,10}):(\d{1,10}):(\d{1,10})", address, re.DOTALL | re.ASCII)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def peer_of(address: str) -> Peer | None:
    found = credentials_of(address)
    return Peer(found[0], found[2]) if found else None


class Origin(NamedTuple):
    """The client that a request is of which the gate passes on: a local user, or a key."""

    role: str  # roles.READ | roles.ADMIN
    uid: int | None = None  # None: it came over the network
    pid: int = 0  # 0: of another pid namespace, or not known
    key: str = ""  # the name of its key
    address: str = ""  # where it came from over the network


@dataclass(frozen=True, slots=True)
class Request:
    """`peer` is the receiver's knowledge and no part of the message; None: it is not known.
    `origin`: that of a request that the gate passes on. `generation`: the only one that it is meant
    for."""

    verb: str
    id: str
    args: Args = field(default_factory=dict)
    peer: Peer | None = None
    origin: Origin | None = None
    generation: int | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """`error` is None where the request was carried out."""

    id: str
    result: Any = None
    error: dict[str, Any] | None = None

    def value(self) -> Any:
        """The result, or the error as the exception it was on the other side."""
        if self.error is None:
            return self.result
        raise as_exception(self.error)


@dataclass(frozen=True, slots=True)
class Publication:
    topic: str
    seq: int
    data: Mapping[str, Any]


def _depth(raw: bytes) -> int:
    """Largest number of open brackets outside strings: known before a parser recurses."""
    depth = most = 0
    in_string = escaped = False
    for c in raw:
        if in_string:
            if escaped:
                escaped = False
            elif c == 0x5C:
                escaped = True
            elif c == 0x22:
                in_string = False
        elif c == 0x22:
            in_string = True
        elif c in b"[{":
            depth += 1
            most = max(most, depth)
        elif c in b"]}":
            depth -= 1
    return most


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _too_long(raw: bytes, limit: int) -> ProtocolError:
    return ProtocolError(f"message of {len(raw)} bytes, at most {limit} are accepted")


def _load(raw: bytes, limit: int) -> dict[str, Any]:
    if len(raw) > limit:
        raise _too_long(raw, limit)
    # A reply is the instance's own; only a request, which any client may send, is counted.
    if limit < MAX_REPLY and _depth(raw) > MAX_DEPTH:
        raise ProtocolError(f"message nested deeper than {MAX_DEPTH}")
    try:
        message = json.loads(raw, parse_constant=_no_constant)
    except (ValueError, RecursionError) as e:
        raise ProtocolError(f"not JSON: {e}") from None
    if not isinstance(message, dict):
        raise ProtocolError("a message is a JSON object")
    if message.get("v") != VERSION:
        raise ProtocolError(
            f"message version {message.get('v')!r}, this dpsup speaks {VERSION}",
            code="E0905",
            help="use the dpsup that the instance was started with",
        )
    return message


def _dump(**message: Any) -> bytes:
    return json.dumps({"v": VERSION, **message}, separators=(",", ":")).encode()


def encode_request(request: Request) -> bytes:
    """Raises: UsageError. A longer one would be dropped unread, and its answer waited for."""
    more: dict[str, Any] = {}
    if request.generation is not None:
        more["generation"] = request.generation
    if request.origin is not None:
        more["origin"] = request.origin._asdict()
    raw = _dump(id=request.id, verb=request.verb, args=request.args, **more)
    if len(raw) > MAX_REQUEST + (MAX_ORIGIN if request.origin else 0):
        raise UsageError(
            f"the request `{request.verb}` is too long: {len(raw)} bytes of JSON",
            code="E0901",
            why=f"the instance accepts {MAX_REQUEST}; characters beyond ASCII take six or more",
            help="operations on a table come from a file: `dpsup table TABLE batch FILE`"
            if request.verb.startswith("table_")
            else "say less in one request",
        )
    return raw


def decode_request(raw: bytes) -> Request:
    message = _load(raw, MAX_REQUEST + MAX_ORIGIN)
    if "origin" not in message and len(raw) > MAX_REQUEST:
        raise _too_long(raw, MAX_REQUEST)
    verb, id_, args = message.get("verb"), message.get("id"), message.get("args", {})
    if not isinstance(verb, str) or not _VERB.fullmatch(verb):
        raise ProtocolError("verb: must be a lower-case word")
    if not isinstance(id_, str) or not 0 < len(id_) <= MAX_ID:
        raise ProtocolError(f"id: a string of 1 to {MAX_ID} characters is required")
    if not isinstance(args, dict):
        raise ProtocolError("args: must be an object")
    generation = message.get("generation")
    if generation is not None and type(generation) is not int:
        raise ProtocolError("generation: must be a number")
    return Request(verb, id_, args, origin=_origin(message.get("origin")), generation=generation)


def _origin(said: Any) -> Origin | None:
    if said is None:
        return None
    try:
        origin = Origin(**said)
    except TypeError:
        raise ProtocolError("origin: its fields are not known") from None
    role, uid, pid, key, address = origin
    texts = all(isinstance(text, str) for text in (role, key, address))
    numbers = all(type(n) is int for n in ((0 if uid is None else uid), pid))
    if not texts or not numbers:
        raise ProtocolError("origin: a field is of the wrong type")
    return origin


def encode_reply(reply: Reply) -> bytes:
    if reply.error is not None:
        return _dump(id=reply.id, ok=False, error=reply.error)
    return _dump(id=reply.id, ok=True, result=reply.result)


def decode_reply(raw: bytes) -> Reply:
    message = _load(raw, MAX_REPLY)
    if message.get("ok") is True:
        return Reply(str(message.get("id", "")), result=message.get("result"))
    error = message.get("error")
    if not isinstance(error, dict):
        raise ProtocolError("a reply has a result or an error")
    return Reply(str(message.get("id", "")), error=error)


def id_of(raw: bytes) -> str:
    """The id of a reply, which may be long and is not read as a whole."""
    found = _REPLY_ID.match(raw)
    return found[1].decode() if found else ""


def readdressed(raw: bytes, old: str, new: str) -> bytes:
    """The same reply to a request of another id."""
    head = len(_REPLY_HEAD) + len(json.dumps(old))
    return _REPLY_HEAD + json.dumps(new).encode() + raw[head:]


def encode_publication(publication: Publication) -> bytes:
    return _dump(topic=publication.topic, seq=publication.seq, data=publication.data)


def decode_publication(raw: bytes) -> Publication:
    message = _load(raw, MAX_REPLY)
    topic, seq, data = message.get("topic"), message.get("seq"), message.get("data")
    if topic not in TOPICS or not isinstance(seq, int) or not isinstance(data, dict):
        raise ProtocolError("not a publication")
    return Publication(topic, seq, data)


def as_error(exception: DpsupError) -> dict[str, Any]:
    return {
        "code": int(exception.exit_code),
        "id": exception.code,
        "errno": getattr(exception, "errno", 0),
        "message": exception.message,
        "why": exception.why,
        "help": exception.help,
    }


def answer(request_id: str, work: Callable[[], Any]) -> bytes:
    """The reply with what `work` returns or raises: a bug in it must not end the process."""
    try:
        return encode_reply(Reply(request_id, result=work()))
    except DpsupError as e:
        error = e
    except Exception as e:
        error = DpsupError(f"internal error: {e!r}", code="E0001")
    return encode_reply(Reply(request_id, error=as_error(error)))


def as_exception(error: dict[str, Any]) -> DpsupError:
    message, why, help = (str(error.get(k, "")) for k in ("message", "why", "help"))
    number = error.get("errno")
    if isinstance(number, int) and number > 0:
        e: DpsupError = ShimError("remote", number, message, why=why, help=help)
    else:
        e = DpsupError(message or "failed", why=why, help=help)
    e.code = str(error.get("id") or e.code)  # an older dpsup sends none
    try:
        e.exit_code = Exit(error.get("code", 1))
    except ValueError:
        e.exit_code = Exit.FAILED
    return e


@overload
def want(args: Args, key: str, kind: type[T] | tuple[type[T], ...]) -> T: ...
@overload
def want(args: Args, key: str, kind: type[T] | tuple[type[T], ...], default: D) -> T | D: ...
def want(args: Args, key: str, kind: type | tuple[type, ...], default: object = ...) -> object:
    """An argument of a request, checked to be of the type that its verb accepts."""
    value = args.get(key, default)
    if value is ...:
        raise ProtocolError(f"args.{key} is missing")
    if value is default:
        return value
    if kind is float and type(value) is int:  # JSON writes 5.0 as 5
        try:
            return float(value)
        except OverflowError:
            raise ProtocolError(f"args.{key}: the number is too large") from None
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise ProtocolError(f"args.{key}: {kinds[-1].__name__} is required")
    return value


class Limiter:
    """Limits the requests of each peer by a token bucket."""

    def __init__(self, rate: float = 500.0, burst: float = 1000.0, peers: int = 1024) -> None:
        self.rate = rate
        self.burst = burst
        self.peers = peers
        self._tokens: dict[bytes, tuple[float, float]] = {}

    def allows(self, peer: bytes, now: float) -> bool:
        tokens, at = self._tokens.pop(peer, (self.burst, now))
        tokens = min(self.burst, tokens + (now - at) * self.rate)
        allowed = tokens >= 1
        self._tokens[peer] = (tokens - 1 if allowed else tokens, now)
        while len(self._tokens) > self.peers:
            # The least recently heard of; dicts keep order.
            del self._tokens[next(iter(self._tokens))]
        return allowed


class Sparing:
    """What of a flood is told: the first of a kind, then one in `every` seconds, and of all kinds
    together `most` in that time. Senders may be many, so the kinds that are known are bounded."""

    def __init__(self, every: float = 600.0, most: int = 20) -> None:
        self.every, self.most = every, most
        self._told: dict[Hashable, tuple[float, int]] = {}  # when, and how many came since
        self._times: deque[float] = deque(maxlen=most)

    def count(self, kind: Hashable, now: float) -> int:
        """How many there were since the last one that was told, with this one; 0: do not tell."""
        at, since = self._told.pop(kind, (-math.inf, 0))
        is_due = now - at >= self.every
        if is_due and len(self._times) == self.most:
            is_due = now - self._times[0] >= self.every
        if is_due:
            self._times.append(now)
        self._told[kind] = (now, 0) if is_due else (at, since + 1)
        while len(self._told) > self.most * 4:
            del self._told[next(iter(self._told))]
        return since + 1 if is_due else 0


class Answered:
    """The last answers by request id, so that a repeated request is not carried out twice."""

    def __init__(self, most: int = 256) -> None:
        self.most = most
        self._replies: dict[str, bytes] = {}

    def get(self, request_id: str) -> bytes | None:
        return self._replies.get(request_id)

    def put(self, request_id: str, reply: bytes) -> None:
        """Clients choose ids at random; a client that reconnects repeats its request's id."""
        if len(reply) <= MAX_REQUEST:
            self._replies[request_id] = reply
        while len(self._replies) > self.most:
            del self._replies[next(iter(self._replies))]
