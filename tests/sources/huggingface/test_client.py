"""huggingface_hub's own session follows the proxy settings as all other requests do."""

from __future__ import annotations

import gzip
import importlib.util
import json
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import huggingface_hub
import pytest

from modelfetch.cli.app import run
from modelfetch.demo import models as made
from modelfetch.demo.body import BytesBody
from modelfetch.demo.faults import Concern, Fault
from modelfetch.demo.hub import Hub
from modelfetch.demo.message import Response
from modelfetch.demo.world import World
from modelfetch.errors import UnreachableError
from modelfetch.http.proxies import Exempt, exemptions
from modelfetch.sources.huggingface import client
from modelfetch.sources.huggingface.client import watched
from tests.cases import each

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from modelfetch.demo.delivery import Delivery
    from modelfetch.demo.message import Request


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(World()) as hub:
        hub.world.hf_repo("acme/art", {"vae.safetensors": made.vae()})
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        # From 1.0 on, a session keeps the proxies of the time when it was made.
        close_session = getattr(huggingface_hub, "close_session", lambda: None)
        close_session()
        yield hub
        close_session()


@pytest.mark.parametrize(
    "entry",
    [
        "127.0.0.0/8 localhost",
        "a.example\tlocalhost,127.0.0.1",
        "http://127.0.0.1:PORT",
        "[::1]:8080 127.0.0.1:PORT",
        "[::1/ a:b:c *.example 127.0.0.1",
    ],
)
def test_a_hub_exempt_from_the_proxy_in_any_form_is_accessed_directly(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    monkeypatch.setenv("NO_PROXY", f"{entry.replace('PORT', hub.endpoint.rpartition(':')[2])} localhost")
    assert run(["fetch", "hf://acme/art/vae.safetensors", "--retries", "1"]) == 0


def test_another_exemption_leaves_the_proxy_in_use(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "128.0.0.0/8")
    assert run(["fetch", "hf://acme/art/vae.safetensors", "--retries", "1"]) == 69
    assert hub.log.requests() == []


@pytest.mark.parametrize("form", [" {} ", "{}\n", "\t{}/ "])
def test_a_proxy_with_spaces_around_it_is_used_for_the_metadata_too(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", form.format("http://127.0.0.1:9"))
    close_session = getattr(huggingface_hub, "close_session", lambda: None)
    close_session()
    with pytest.raises(Exception, match="refused"), watched(lambda _url, _headers: None, hub.endpoint):
        huggingface_hub.utils.get_session().get(f"{hub.endpoint}/x")  # type: ignore[attr-defined]


def test_other_threads_do_not_see_no_proxy_as_it_is_written_for_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8 localhost")
    expected, seen = exemptions(), list[tuple[Exempt, ...] | None]()
    get_session = huggingface_hub.utils.get_session  # type: ignore[attr-defined]
    other = threading.Thread(target=lambda: seen.append(exemptions()))

    def meanwhile() -> Any:
        other.start()
        other.join(0.1)
        return get_session()

    monkeypatch.setattr(huggingface_hub.utils, "get_session", meanwhile)
    with watched(lambda _url, _headers: None, "https://hub.example"):
        other.join()
    assert seen == [expected]


INFO = json.dumps({"id": "acme/art", "sha": "0" * 40, "siblings": [{"rfilename": "a.bin", "size": 1}]}).encode()
LONG = INFO[:-1] + b', "x": "' + b"a" * (client._LARGEST_ANSWER + 1) + b'"}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Coded(Fault):
    """A document with a content coding, also for a request that does not accept it."""

    concerns: ClassVar[Concern] = "response"
    content: bytes
    coding: str
    status: int = 200

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        headers = (("Content-Type", "application/json"), ("Content-Encoding", self.coding))
        return replace(delivery, response=Response(status=self.status, headers=headers, body=BytesBody(self.content)))


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch, hub: Hub) -> Hub:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return hub


def sessions() -> list[Callable[[], Any]]:
    """One session of each library with which a version of huggingface_hub sends requests, as far as it is installed."""
    made = [huggingface_hub.utils.get_session]  # type: ignore[attr-defined]
    if importlib.util.find_spec("requests") is not None:
        made.append(importlib.import_module("requests").Session)
    return made


@each(
    ("content", "coding", "problem"),
    [
        (gzip.compress(INFO), "gzip", None),
        (zlib.compress(INFO), "deflate", None),
        (INFO, "identity", None),
        (gzip.compress(LONG), "gzip", "too long"),
        (zlib.compress(LONG), "deflate", "too long"),
        (gzip.compress(b"[" * 1_100_000), "gzip", "too long"),
        (gzip.compress(gzip.compress(INFO)), "gzip, gzip", "not requested"),
        (INFO, "br", "not requested"),
        (INFO, "zstd", "not requested"),
        (INFO, "gzip", "decoded"),
        (gzip.compress(INFO)[:-9], "gzip", "decoded"),
    ],
)
def test_a_coded_answer_is_decoded_within_limits(
    direct: Hub, monkeypatch: pytest.MonkeyPatch, content: bytes, coding: str, problem: str | None
) -> None:
    for status in (200, 404):
        for make in sessions():
            direct.faults.clear()
            direct.faults.add("*", Coded(content=content, coding=coding, status=status), times=None)
            session = make()
            with monkeypatch.context() as patch:
                patch.setattr(huggingface_hub.utils, "get_session", lambda session=session: session)
                with watched(lambda _url, _headers: None, direct.endpoint):
                    if problem is None:
                        assert session.get(f"{direct.endpoint}/x").content == INFO
                        continue
                    with pytest.raises(UnreachableError, match=problem):
                        assert session.get(f"{direct.endpoint}/x").content


@pytest.mark.parametrize(("limit", "together"), [(10, False), (10**6, True)])
def test_one_long_answer_at_a_time_is_in_memory(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, limit: int, *, together: bool
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(client, "_LARGE_ANSWER", limit)
    meeting = threading.Barrier(2)

    def meet(_number: int) -> bool:
        with watched(lambda _url, _headers: None, hub.endpoint):
            huggingface_hub.HfApi(endpoint=hub.endpoint, token=False).model_info("acme/art")
            try:
                meeting.wait(0.3 if not together else 10)
            except threading.BrokenBarrierError:
                return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(meet, range(2))) == [together] * 2


@each(("seconds", "is_refused"), [(59, False), (70, True)])
def test_an_answer_that_drips_is_refused_at_the_floor_of_all_bodies(
    monkeypatch: pytest.MonkeyPatch, seconds: int, *, is_refused: bool
) -> None:
    now = iter(range(0, 10_000, 5))
    monkeypatch.setattr("modelfetch.sources.huggingface.client.time.monotonic", lambda: next(now))
    pieces = [b"x"] * (seconds // 5)
    if is_refused:
        with pytest.raises(UnreachableError, match="too slowly") as caught:
            list(client._bounded(pieces, None))
        assert (caught.value.code, caught.value.permanent) == ("timeout", False)
    else:
        assert len(list(client._bounded(pieces, None))) == len(pieces)
