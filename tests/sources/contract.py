"""The contract of all sources, written once: each source's tests define the requests and inherit the rest."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from modelfetch.core.artifact import Resolution
from modelfetch.core.digest import Digest
from modelfetch.demo.faults import Fault
from modelfetch.demo.message import redirect
from tests.faults import EndlessHeaders, NotHttp, RateLimited, RedirectLoop, RedirectTo, Refuse, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelfetch.demo.delivery import Delivery
    from modelfetch.demo.faults import Concern
    from modelfetch.demo.hub import Hub
    from modelfetch.demo.message import Request
    from tests.sources.bench import SourceBench

OTHER = Digest("sha256", "0" * 64)
PLANTED = "planted-Secret-0123456789abcdef"

DEEP = b"[" * 200_000 + b"]" * 200_000
NONSENSE = {
    "an HTML page": b"<!DOCTYPE html><html><body>Welcome to the hotel's Wi-Fi</body></html>",
    "nothing": b"",
    "a list": b"[]",
    "a text": b'"yes"',
    "null": b"null",
    "deep nesting": DEEP,
    "other keys": b'{"a": 1}',
    "a text cut off": b'{"schemaVersion": 2, "mediaType": "appl',
    "a huge number": b'{"schemaVersion": ' + b"9" * 5000 + b"}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RedirectBack(Fault):
    """A redirect to the same address, which responds the second time."""

    concerns: ClassVar[Concern] = "response"

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        return replace(delivery, response=redirect(307, request.target))


@dataclass(frozen=True, kw_only=True)
class Case:
    """The requests for one source.

    ``good`` resolves to ``sizes`` (by path); ``missing`` does not exist; ``refused`` exists and can't be accessed
    without credentials. ``origin`` and ``path`` locate the first request for ``good`` (a glob), ``secret``
    contains the variables with a token for it, as a bench accepts them.
    """

    good: str
    sizes: dict[str, int]
    missing: str
    refused: str
    origin: str = ""
    path: str = ""
    secret: dict[str, str] = field(default_factory=dict)
    wanted: dict[str, Any] = field(default_factory=dict)
    hears_nonsense: bool = True
    has_other_ways: bool = False
    """Whether files are looked for in another way after an invalid answer at ``path``."""
    close: Callable[[Hub], object] = lambda _hub: None
    """Called with the hub before ``refused`` is requested."""


class Contract:
    """Tests for every source."""

    @pytest.fixture
    def case(self) -> Case:
        raise NotImplementedError

    def test_each_file_has_a_size_and_a_location(self, case: Case, bench: SourceBench) -> None:
        found = bench.resolve(case.good, **case.wanted)
        assert {a.path: a.size for a in found.artifacts} == case.sizes
        assert all(a.locations for a in found.artifacts)
        assert all("?" not in a.locations[0].url.replace("?fileId=", "") for a in found.artifacts)

    def test_a_resolution_can_be_stored_and_read_again(self, case: Case, bench: SourceBench) -> None:
        found = bench.resolve(case.good, **case.wanted)
        assert Resolution.from_dict(json.loads(json.dumps(found.as_dict()))) == found

    def test_a_missing_model_is_66(self, case: Case, bench: SourceBench) -> None:
        error = bench.refusal(case.missing, **case.wanted)
        assert (error.exit_code, error.permanent, error.uri) == (66, True, case.missing)
        assert bench.waits == []

    def test_a_model_that_needs_a_login_is_77_with_a_hint(self, case: Case, bench: SourceBench, hub: Hub) -> None:
        case.close(hub)
        error = bench.refusal(case.refused, **case.wanted)
        assert (error.exit_code, error.permanent, error.uri) == (77, True, case.refused)
        assert error.hint
        assert bench.waits == []

    def test_a_pinned_digest_that_upstream_contradicts_is_65_before_a_byte(
        self, case: Case, bench: SourceBench
    ) -> None:
        known = [a for a in bench.resolve(case.good, **case.wanted).artifacts if a.digest is not None]
        if not known:
            # A source that knows no digest accepts the manifest's, which the transfer then verifies.
            kept = bench.resolve(case.good, digest=OTHER, **case.wanted)
            assert [a.digest for a in kept.artifacts] == [OTHER]
            return
        error = bench.refusal(case.good, digest=OTHER, **case.wanted)
        assert (error.exit_code, error.code) == (65, "digest-mismatch")


class NetworkContract(Contract):
    """Tests for every source that uses the network."""

    @pytest.fixture(params=[500, 502, 503, 504, 408])
    def failing(self, request: pytest.FixtureRequest) -> int:
        status: int = request.param
        return status

    def test_offline_sends_no_request(self, case: Case, make_desk: Callable[..., SourceBench], hub: Hub) -> None:
        bench = make_desk(HF_HUB_OFFLINE="1")
        error = bench.refusal(case.good, **case.wanted)
        assert (error.exit_code, error.code) == (69, "offline")
        assert "is not on this machine yet" in error.message
        assert "run it once without --offline" in (error.hint or "")
        assert hub.log.requests() == []
        assert bench.http.requests == 0

    def test_every_request_is_counted(self, case: Case, bench: SourceBench, hub: Hub) -> None:
        bench.resolve(case.good, **case.wanted)
        # A registry is first contacted over TLS, which this hub does not support: such a request is never logged.
        tried_by_tls = 1 if case.good.startswith("oci:") else 0
        assert bench.http.requests == len(hub.log.requests()) + tried_by_tls

    def test_an_unreachable_host_is_69_after_all_tries(self, case: Case, bench: SourceBench, hub: Hub) -> None:
        hub.stop()
        error = bench.refusal(case.good, **case.wanted)
        assert (error.exit_code, error.permanent) == (69, False)
        assert bench.waits == [1.0, 2.0]

    def test_a_temporary_failure_is_retried(self, case: Case, bench: SourceBench, hub: Hub, failing: int) -> None:
        hub.faults.add("*" if case.has_other_ways else case.path, Status(code=failing), origin=case.origin)
        hub.faults.add("/*/resolve/*" if case.has_other_ways else "/none", Status(code=failing), origin=case.origin)
        assert bench.resolve(case.good, **case.wanted).artifacts
        assert bench.waits == [1.0]
        assert len(bench.events) == 1

    def test_a_connection_that_breaks_is_tried_again(self, case: Case, bench: SourceBench, hub: Hub) -> None:
        hub.faults.add(case.path, Refuse(), origin=case.origin)
        assert bench.resolve(case.good, **case.wanted).artifacts

    def test_a_rate_limit_is_waited_for_as_long_as_requested(self, case: Case, bench: SourceBench, hub: Hub) -> None:
        hub.faults.add(case.path, RateLimited(wait=55, retry_after=True), origin=case.origin)
        assert bench.resolve(case.good, **case.wanted).artifacts
        assert bench.waits == [55.0]

    def test_a_rate_limit_beyond_the_maximum_wait_is_75(self, case: Case, bench: SourceBench, hub: Hub) -> None:
        hub.faults.add(case.path, RateLimited(wait=121, retry_after=True), origin=case.origin)
        error = bench.refusal(case.good, **case.wanted)
        assert (error.exit_code, error.code) == (75, "rate-limited")
        assert bench.waits == []

    def test_redirects_are_followed(self, case: Case, bench: SourceBench, hub: Hub) -> None:
        hub.faults.add(case.path, RedirectBack(), origin=case.origin)
        assert bench.resolve(case.good, **case.wanted).artifacts

    def test_endless_redirects_are_69(self, case: Case, bench: SourceBench, hub: Hub) -> None:
        hub.faults.add("*", RedirectLoop(), times=None, origin=case.origin)
        error = bench.refusal(case.good, **case.wanted)
        assert (error.exit_code, error.code, error.permanent) == (69, "too-many-redirects", True)

    def test_a_redirect_to_an_unencrypted_host_is_refused(self, case: Case, bench: SourceBench, hub: Hub) -> None:
        hub.faults.add(case.path, RedirectTo(url="http://models.example/x"), origin=case.origin)
        error = bench.refusal(case.good, **case.wanted)
        assert (error.exit_code, error.code, error.permanent) == (69, "insecure-redirect", True)

    def test_a_credential_does_not_follow_a_redirect_to_another_host(
        self, case: Case, make_desk: Callable[..., SourceBench], hub: Hub
    ) -> None:
        bench = make_desk(**case.secret)
        hub.faults.add(case.path, RedirectTo(url=hub.cdn + "/elsewhere"), origin=case.origin, times=None)
        bench.refusal(case.good, **case.wanted)
        seen = [entry for entry in hub.log.requests() if entry.origin == "cdn"]
        assert seen
        assert all(PLANTED not in str(dict(entry.headers)) + entry.target for entry in seen)
        # If the source sends a token at all, the token was sent to the source.
        own = [entry for entry in hub.log.requests() if entry.origin == case.origin]
        assert not case.secret or any(entry.authorization for entry in own)

    def test_a_location_is_valid_after_its_signed_url_expired(self, case: Case, bench: SourceBench, hub: Hub) -> None:
        for artifact in bench.resolve(case.good, **case.wanted).artifacts:
            for _ in range(2):
                reply = bench.http.get(artifact.locations[0].url)
                assert (reply.status, len(reply.body)) == (200, artifact.size)
                hub.expire_urls()

    @pytest.mark.parametrize("kind", list(NONSENSE))
    def test_invalid_metadata_is_a_typed_error(
        self, case: Case, make_desk: Callable[..., SourceBench], hub: Hub, kind: str
    ) -> None:
        if not case.hears_nonsense:
            return
        bench = make_desk()
        hub.faults.add(
            case.path,
            Status(code=200, body=NONSENSE[kind].decode(), content_type="application/json"),
            origin=case.origin,
        )
        if case.has_other_ways:
            assert {a.path: a.size for a in bench.resolve(case.good, **case.wanted).artifacts} == case.sizes
            hub.faults.add("*", Status(code=200, body=NONSENSE[kind].decode()), origin=case.origin, times=None)
            bench = make_desk()
        error = bench.refusal(case.good, **case.wanted)
        assert error.exit_code in (65, 69)
        assert error.permanent
        assert len(str(error)) < 500

    @pytest.mark.parametrize(("target", "code"), [("/sign-in?to=x", "login-page"), ("/portal", "bad-response")])
    def test_a_page_in_the_place_of_metadata_is_named(
        self, case: Case, bench: SourceBench, hub: Hub, target: str, code: str
    ) -> None:
        if not case.hears_nonsense:
            return
        page = Status(code=200, body=NONSENSE["an HTML page"].decode(), content_type="text/html")
        hub.faults.add(target.partition("?")[0], page, origin=case.origin, times=None)
        hub.faults.add("/*/*", RedirectTo(url=target), origin=case.origin, times=None)
        error = bench.refusal(case.good, **case.wanted)
        assert error.code == ("bad-response" if case.has_other_ways else code)
        assert "page" in error.message
        assert "login" in str(error.hint)

    @pytest.mark.parametrize("fault", [NotHttp(), EndlessHeaders()], ids=lambda fault: type(fault).__name__)
    def test_an_answer_that_is_not_http_is_a_typed_error(
        self, case: Case, bench: SourceBench, hub: Hub, fault: Any
    ) -> None:
        hub.faults.add("*", fault, times=None, origin=case.origin)
        error = bench.refusal(case.good, **case.wanted)
        assert error.exit_code == 69

    def test_an_invalid_redirect_is_a_typed_error(self, case: Case, bench: SourceBench, hub: Hub) -> None:
        for target in ("http://[::1", "ftp://a/b", "https://"):
            hub.faults.clear()
            path = "*" if case.has_other_ways else case.path
            hub.faults.add(path, RedirectTo(url=target), times=None, origin=case.origin)
            error = bench.refusal(case.good, **case.wanted)
            assert error.exit_code == 69, target
