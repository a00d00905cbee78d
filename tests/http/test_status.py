from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from hypothesis import given

from modelfetch.errors import CredentialsError, ModelfetchError, NotFoundError, RetryLaterError, UnreachableError
from modelfetch.http import Reply, check_status, retry_after
from tests.cases import each
from tests.examples import any_text


def reply(status: int, **headers: str) -> Reply:
    return Reply(
        status=status, headers={k.replace("_", "-"): v for k, v in headers.items()}, body=b"", url="https://h/p?s=1"
    )


@each(
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


@each("status", [200, 204, 206])
def test_a_success_is_no_error(status: int) -> None:
    check_status(reply(status), what="x", uri=None)


@pytest.mark.parametrize(("status", "sent", "code"), [(401, False, "missing-or-private"), (401, True, "unauthorized")])
def test_errors_mention_a_credential_only_if_it_was_sent(status: int, sent: bool, code: str) -> None:
    answer = Reply(status=status, headers={}, body=b"", url="https://h/p", authorized=sent)
    with pytest.raises(CredentialsError) as caught:
        check_status(answer, what="it", uri=None)
    assert (caught.value.code, "was sent" in str(caught.value.hint)) == (code, sent)


def test_retry_after_is_read_in_all_its_forms() -> None:
    assert retry_after({"Retry-After": "17"}) == 17.0
    assert retry_after({"retry-after": " 5 "}) == 5.0
    assert retry_after({"Retry-After": formatdate(1000.0, usegmt=True)}, now=lambda: 940.0) == 60.0
    assert retry_after({"Retry-After": formatdate(1000.0, usegmt=True)}, now=lambda: 2000.0) == 0.0
    assert retry_after({"RateLimit": '"api";r=0;t=55'}) == 55.0
    assert retry_after({}) is None
    assert retry_after({"Retry-After": "soon"}) is None
    assert retry_after({"Retry-After": "9" * 400}) == 10**9


@given(any_text(max_size=60), any_text(max_size=60))
def test_any_header_is_read_without_an_exception(value: str, limit: str) -> None:
    found = retry_after({"Retry-After": value, "RateLimit": limit}, now=time.time)
    assert found is None or found >= 0
