# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpsup.bus import messages
from dpsup.bus.messages import Answered, Limiter, ProtocolError, Publication, Reply, Request
from dpsup.errors import DpsupError, Exit, NoSuchObject, UsageError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=4))
def test_requests_come_back_as_they_were(args: dict[str, object]) -> None:
    request = Request("scale", "id-1", args)
    assert messages.decode_request(messages.encode_request(request)) == request


@given(JSON)
def test_replies_and_publications_too(value: object) -> None:
    reply = Reply("x", result=value)
    assert messages.decode_reply(messages.encode_reply(reply)) == reply
    publication = Publication("event", 7, {"a": value})
    assert messages.decode_publication(messages.encode_publication(publication)) == publication


def test_an_error_is_the_same_exception_on_the_other_side() -> None:
    error = NoSuchObject("no group", why="w", help="h")
    reply = messages.decode_reply(messages.encode_reply(Reply("x", error=messages.as_error(error))))
    with pytest.raises(DpsupError) as caught:
        reply.value()
    assert (caught.value.message, caught.value.why, caught.value.help) == ("no group", "w", "h")
    assert caught.value.exit_code is Exit.NO_SUCH_OBJECT


@pytest.mark.fault(21)
@given(st.binary(max_size=200))
def test_noise_is_refused_and_never_raises_anything_else(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        messages.decode_request(raw)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"v": 2, "id": "x", "verb": "status"}, "version 2"),
        ({"v": 1, "id": "x", "verb": "No!"}, "verb"),
        ({"v": 1, "id": "", "verb": "status"}, "id"),
        ({"v": 1, "id": "x" * 65, "verb": "status"}, "id"),
        ({"v": 1, "id": 5, "verb": "status"}, "id"),
        ({"v": 1, "id": "x", "verb": "status", "args": []}, "args"),
        ([1], "object"),
    ],
)
def test_each_field_is_checked(message: object, says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        messages.decode_request(json.dumps(message).encode())


def test_size_and_depth_are_limited() -> None:
    big = {"v": 1, "id": "x", "verb": "status", "args": {"a": "x" * messages.MAX_REQUEST}}
    with pytest.raises(ProtocolError, match="bytes"):
        messages.decode_request(json.dumps(big).encode())
    with pytest.raises(ProtocolError, match="deeper"):
        messages.decode_request(b"[" * 5000)
    brackets = {"v": 1, "id": "x", "verb": "status", "args": {"a": "[[{" * 50 + '"\\'}}
    del brackets["args"]["a"]
    brackets["args"]["b"] = "[[{" * 50
    messages.decode_request(json.dumps(brackets).encode())


def test_a_request_that_no_server_reads_is_not_sent() -> None:
    """What counts is its length as JSON, where an umlaut is six bytes."""
    empty = messages.encode_request(Request("table_change", "1", {"t": ""}))
    room = messages.MAX_REQUEST - len(empty)
    fits = Request("table_change", "1", {"t": "ä" * (room // 6)})
    assert messages.decode_request(messages.encode_request(fits)) == fits
    with pytest.raises(UsageError, match="too long") as caught:
        messages.encode_request(Request("table_change", "1", {"t": "ä" * (room // 6 + 1)}))
    assert caught.value.code == "E0901" and "batch FILE" in caught.value.help
    with pytest.raises(UsageError, match="too long"):
        messages.encode_request(Request("logs", "1", {"name": "x" * messages.MAX_REQUEST}))


def test_rates_are_limited_per_peer() -> None:
    limiter = Limiter(rate=10, burst=5)
    assert [limiter.allows(b"a", 0.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert limiter.allows(b"b", 0.0)
    assert limiter.allows(b"a", 0.1)
    assert not limiter.allows(b"a", 0.1)


def test_memory_of_peers_and_answers_is_bounded() -> None:
    limiter, answered = Limiter(peers=10), Answered(most=10)
    for i in range(100):
        limiter.allows(str(i).encode(), 0.0)
        answered.put(str(i), b"reply")
    assert len(limiter._tokens) == 10
    assert answered.get("99") == b"reply"
    assert answered.get("0") is None
