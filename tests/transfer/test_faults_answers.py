"""Statuses, pages and wrong files: what is tried again, what is refused, and which source comes next."""

from __future__ import annotations

import gzip
import time
from email.utils import formatdate

import pytest

from modelfetch.core.events import SourceFailed
from modelfetch.errors import (
    CredentialsError,
    IntegrityError,
    ModelfetchError,
    NotAModelError,
    NotFoundError,
    RetryLaterError,
    UnreachableError,
)
from tests.cases import first
from tests.transfer.bodies import DATA
from tests.transfer.server import Origin, answering, drop_after
from tests.transfer.world import World, payload


@pytest.mark.parametrize(
    ("status", "kind", "code", "exit_code"),
    [
        (401, CredentialsError, "missing-or-private", 77),
        (403, CredentialsError, "forbidden", 77),
        (404, NotFoundError, "not-found", 66),
        (410, NotFoundError, "not-found", 66),
        (400, UnreachableError, "bad-response", 69),
        (418, UnreachableError, "bad-response", 69),
        (304, UnreachableError, "bad-response", 69),
    ],
)
def test_a_permanent_status_is_not_retried(
    world: World, status: int, kind: type[ModelfetchError], code: str, exit_code: int
) -> None:
    with Origin(DATA, default=answering(status)) as origin, pytest.raises(kind) as caught:
        world.fetch(origin, data=DATA)
    assert (caught.value.code, caught.value.exit_code) == (code, exit_code)
    assert len(origin.requests) == 1


@pytest.mark.parametrize(("status", "code"), [(500, "server-error"), (502, "server-error"), (408, "server-error")])
def test_a_failing_server_gets_five_requests(world: World, status: int, code: str) -> None:
    with Origin(DATA, default=answering(status)) as origin, pytest.raises(UnreachableError) as caught:
        world.fetch(origin, data=DATA)
    assert (caught.value.code, caught.value.exit_code) == (code, 69)
    assert len(origin.requests) == 5


def test_attempts_count_only_without_progress(world: World) -> None:
    scripts = [answering(500) if turn % 4 else drop_after(20_000) for turn in range(1, 40)]
    with Origin(DATA, scripts=scripts) as origin:
        assert world.fetch(origin, data=DATA).blob.path.read_bytes() == DATA


@pytest.mark.parametrize(("status", "form"), [(429, "seconds"), (503, "date")])
def test_retry_after_is_waited_for(world: World, status: int, form: str) -> None:
    after = "1" if form == "seconds" else formatdate(time.time() + 1.9, usegmt=True)
    with Origin(DATA, scripts=[answering(status, {"Retry-After": after})]) as origin:
        start = time.monotonic()
        assert world.fetch(origin, data=DATA).blob.path.read_bytes() == DATA
        assert 0.8 <= time.monotonic() - start < 2.5


@pytest.mark.parametrize("status", [429, 503])
def test_a_retry_after_that_is_too_long_is_try_again_later(world: World, status: int) -> None:
    with (
        Origin(DATA, default=answering(status, {"Retry-After": "3600"})) as origin,
        pytest.raises(RetryLaterError) as caught,
    ):
        world.fetch(origin, data=DATA)
    assert (caught.value.code, caught.value.exit_code) == ("rate-limited", 75)
    assert len(origin.requests) == 1


def test_a_permanent_429_is_try_again_later(world: World) -> None:
    with Origin(DATA, default=answering(429)) as origin, pytest.raises(RetryLaterError) as caught:
        world.fetch(origin, data=DATA)
    assert caught.value.exit_code == 75
    assert len(origin.requests) == 5


def test_a_web_page_is_refused_as_a_model(world: World) -> None:
    page = answering(200, {"Content-Type": "text/html; charset=utf-8"}, b"<!DOCTYPE html><html>Sorry</html>")
    with Origin(DATA, default=page) as origin:
        for data in (DATA, None):
            with pytest.raises(NotAModelError) as caught:
                world.fetch(origin, data=data, path="model.safetensors")
            assert (caught.value.code, caught.value.exit_code) == ("not-a-model", 65)
    assert world.partial() is None


@pytest.mark.parametrize("kind", ["text/html", "image/png"])
def test_an_error_page_does_not_discard_the_progress(world: World, kind: str) -> None:
    """A captive portal requires a login: the next run resumes where the last one stopped."""
    page = answering(200, {"Content-Type": kind}, b"<html>Welcome to our network</html>")
    with Origin(DATA, scripts=[drop_after(200_000), page]) as origin:
        with pytest.raises(NotAModelError):
            world.fetch(origin, data=DATA, path="model.safetensors")
        assert world.fetch(origin, data=DATA, path="model.safetensors").action == "resumed"
        assert origin.sent == len(DATA)


def test_a_json_message_is_refused_as_a_model(world: World) -> None:
    message = answering(200, {"Content-Type": "application/json"}, b'{"error": "early access"}')
    with Origin(DATA, default=message) as origin:
        for data in (DATA, None):
            with pytest.raises(NotAModelError):
                world.fetch(origin, data=data, path="model.safetensors")


PORTAL = b"<!DOCTYPE html><html>Welcome to our network</html>"


@pytest.mark.parametrize("known", ["digest", "digest and size"])
@pytest.mark.parametrize(
    ("kind", "body"),
    first(
        3,
        [
            ("text/plain", PORTAL),
            ("application/octet-stream", b'{"portal": "please log in"}'),
            ("", "\ufeff\n<html>".encode("utf-16-le")),
            ("", PORTAL),
            ("application/xhtml+xml", b"<?xml version='1.0'?>" + PORTAL),
            ("application/octet-stream", gzip.compress(PORTAL, mtime=0)),
        ],
    ),
)
def test_a_page_in_the_place_of_pinned_weights_is_named_whatever_its_type(
    world: World, kind: str, body: bytes, known: str
) -> None:
    with Origin(DATA, default=answering(200, {"Content-Type": kind} if kind else {}, body)) as origin:
        with pytest.raises(NotAModelError) as caught:
            world.fetch(origin, data=DATA, size=None if known == "digest" else len(DATA), path="model.safetensors")
        assert "upstream" not in f"{caught.value} {caught.value.hint}"


def test_a_login_page_is_a_credentials_error(world: World) -> None:
    page = answering(200, {"Content-Type": "text/html"}, b"<html>Log in</html>")
    with (
        Origin(DATA, scripts=[answering(302, {"Location": "/login?returnUrl=x"}), page]) as origin,
        pytest.raises(CredentialsError) as caught,
    ):
        world.fetch(origin, path="model.safetensors")
    assert (caught.value.code, caught.value.exit_code) == ("login-page", 77)


def test_a_web_page_in_place_of_a_text_file_is_refused_too(world: World) -> None:
    page = answering(200, {"Content-Type": "text/html"}, b"<html>Sorry</html>")
    with Origin(DATA, default=page) as origin, pytest.raises(NotAModelError):
        world.fetch(origin, path="config.json")


def test_a_known_digest_alone_decides(world: World) -> None:
    page = b"<html>This is what was asked for</html>"
    with Origin(page, default=answering(200, {"Content-Type": "text/html"}, page)) as origin:
        assert world.fetch(origin, data=page, path="model.safetensors").blob.path.read_bytes() == page


def test_a_wrong_digest_is_an_error_after_all_sources(world: World) -> None:
    with (
        Origin(payload(300_000, seed=5)) as first,
        Origin(payload(300_000, seed=6)) as second,
        pytest.raises(IntegrityError) as caught,
    ):
        world.fetch(first, second, data=DATA)
    assert (caught.value.code, caught.value.exit_code) == ("digest-mismatch", 65)
    assert "expected sha256:" in caught.value.message
    assert (len(first.requests), len(second.requests)) == (1, 1)
    assert not list(world.store.blobs())
    assert world.partial() is None


def test_a_wrong_file_is_fetched_from_the_next_source(world: World) -> None:
    with Origin(payload(300_000, seed=5)) as wrong, Origin(DATA) as right:
        fetched = world.fetch(wrong, right, data=DATA)
    assert fetched.blob.path.read_bytes() == DATA
    assert fetched.served_by == right.url
    assert [event.source for event in world.events_of(SourceFailed)] == [wrong.url]


def test_a_mirror_resumes_the_download_of_the_source(world: World) -> None:
    dying = [drop_after(200_000), *[answering(500)] * 9]
    with Origin(DATA, scripts=[*dying]) as source, Origin(DATA) as mirror:
        fetched = world.fetch(source, mirror, data=DATA)
        assert fetched.blob.path.read_bytes() == DATA
        assert mirror.requests[0].headers["range"] == f"bytes=200000-{len(DATA) - 1}"
        assert mirror.sent == 100_000


def test_without_a_digest_no_bytes_of_two_sources_are_mixed(world: World) -> None:
    other = payload(len(DATA), seed=7)
    dying = [drop_after(200_000), *[answering(500)] * 9]
    with Origin(DATA, scripts=[*dying]) as source, Origin(other) as mirror:
        assert world.fetch(source, mirror).blob.path.read_bytes() == other


def test_the_most_severe_error_of_the_sources_is_reported(world: World) -> None:
    with (
        Origin(DATA, default=answering(404)) as gone,
        Origin(DATA, default=answering(401)) as private,
        pytest.raises(CredentialsError),
    ):
        world.fetch(gone, private, data=DATA)


def test_an_artifact_without_sources_is_an_error(world: World) -> None:
    with pytest.raises(UnreachableError):
        world.fetch(data=DATA)
