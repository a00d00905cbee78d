"""Headers, statuses and URLs, without a network."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfetch.core.cancel import Cancel
from modelfetch.core.urls import is_loopback, redact
from modelfetch.errors import (
    CredentialsError,
    InterruptedSync,
    ModelfetchError,
    NotFoundError,
    RetryLaterError,
    UnreachableError,
)
from modelfetch.http import Headers, Reply, check_status, retry_after
from modelfetch.http.redirects import method_after, next_hop, rewrite


def reply(status: int, **headers: str) -> Reply:
    return Reply(
        status=status, headers={k.replace("_", "-"): v for k, v in headers.items()}, body=b"", url="https://h/p?s=1"
    )


@pytest.mark.parametrize(
    ("status", "kind", "code", "exit_code", "permanent"),
    [
        (401, CredentialsError, "missing-or-private", 77, True),
        (403, CredentialsError, "forbidden", 77, True),
        (407, CredentialsError, "proxy-credentials", 77, True),
        (404, NotFoundError, "not-found", 66, True),
        (410, NotFoundError, "not-found", 66, True),
        (429, RetryLaterError, "rate-limited", 75, False),
        (408, UnreachableError, "server-error", 69, False),
        (500, UnreachableError, "server-error", 69, False),
        (503, UnreachableError, "server-error", 69, False),
        (400, UnreachableError, "bad-response", 69, True),
        (300, UnreachableError, "bad-response", 69, True),
    ],
)
def test_each_status_has_its_error(
    status: int, kind: type[ModelfetchError], code: str, exit_code: int, permanent: bool
) -> None:
    with pytest.raises(kind) as caught:
        check_status(reply(status), what="the file", uri="hf://a/b")
    error = caught.value
    assert (error.code, error.exit_code, error.permanent, error.uri) == (code, exit_code, permanent, "hf://a/b")
    assert "s=1" not in error.message


@pytest.mark.parametrize("status", [200, 204, 206])
def test_a_success_is_no_error(status: int) -> None:
    check_status(reply(status), what="x", uri=None)


def test_retry_after_is_read_in_all_its_forms() -> None:
    assert retry_after({"Retry-After": "17"}) == 17.0
    assert retry_after({"retry-after": " 5 "}) == 5.0
    assert retry_after({"Retry-After": formatdate(1000.0, usegmt=True)}, now=lambda: 940.0) == 60.0
    assert retry_after({"Retry-After": formatdate(1000.0, usegmt=True)}, now=lambda: 2000.0) == 0.0
    assert retry_after({"RateLimit": '"api";r=0;t=55'}) == 55.0
    assert retry_after({}) is None
    assert retry_after({"Retry-After": "soon"}) is None
    assert retry_after({"Retry-After": "9" * 400}) == 10**9


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_header_makes_it_fail(value: str, limit: str) -> None:
    found = retry_after({"Retry-After": value, "RateLimit": limit}, now=time.time)
    assert found is None or found >= 0


def test_repeated_headers_are_joined_and_names_know_no_case() -> None:
    headers = Headers([("Accept", "a"), ("ACCEPT", "b"), ("X", "1")])
    assert headers["accept"] == "a, b"
    assert "x" in headers
    assert len(headers) == 2
    assert "1" not in repr(headers)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:p@host:8/a/b?token=x#f", "https://host:8/a/b"),
        ("https://host", "https://host"),
        ("https://[::1", "(malformed URL)"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert redact(url) == shown


@given(st.text(max_size=80))
def test_any_text_can_be_shown(text: str) -> None:
    redact(text)


@pytest.mark.parametrize("host", ["localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_this_machine_is_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["localhost.example", "128.0.0.1", "example.org", "::2", ""])
def test_others_are_not(host: str) -> None:
    assert not is_loopback(host)


def test_a_prefix_ends_at_a_boundary() -> None:
    rules = [("https://a.example", "https://b.example")]
    assert rewrite("https://a.example/x", rules) == "https://b.example/x"
    assert rewrite("https://a.example?x", rules) == "https://b.example?x"
    assert rewrite("https://a.example.org/x", rules) == "https://a.example.org/x"


def test_a_relative_location_is_resolved() -> None:
    assert next_hop("https://a/b/c?d", "../e", lambda _h, _p: False) == "https://a/e"
    assert next_hop("https://a/b", "http://127.0.0.1:5/x", lambda _h, _p: False) == "http://127.0.0.1:5/x"
    assert next_hop("https://a/b", "http://lan/x", lambda host, port: (host, port) == ("lan", 80)) == "http://lan/x"


@pytest.mark.parametrize(
    ("status", "method", "after"),
    [
        (301, "GET", "GET"),
        (302, "POST", "GET"),
        (303, "POST", "GET"),
        (303, "HEAD", "HEAD"),
        (307, "POST", "POST"),
        (308, "POST", "POST"),
    ],
)
def test_the_method_after_a_redirect(status: int, method: str, after: str) -> None:
    assert method_after(status, method) == after


# --- cancel ----------------------------------------------------------------------------------------------------


def test_a_cancel_calls_back_once_and_never_those_who_left() -> None:
    cancel, calls = Cancel(), []
    leave = cancel.on_cancel(lambda: calls.append("left"))
    cancel.on_cancel(lambda: calls.append("stayed"))
    leave()
    cancel.set()
    cancel.set()
    assert calls == ["stayed"]
    cancel.on_cancel(lambda: calls.append("late"))
    assert calls == ["stayed", "late"]


def test_a_child_follows_its_parent_and_its_word() -> None:
    parent = Cancel()
    child, other = parent.child(), parent.child()
    other.release()
    child.check()
    parent.set(code="terminated", exit_code=143)
    assert child.is_set()
    assert not other.is_set()
    assert child.wait(0)
    with pytest.raises(InterruptedSync) as caught:
        child.check()
    assert (caught.value.code, caught.value.exit_code) == ("terminated", 143)


def test_a_parent_does_not_follow_its_child() -> None:
    parent = Cancel()
    parent.child().set()
    assert not parent.is_set()
