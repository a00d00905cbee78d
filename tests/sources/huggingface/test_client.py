"""huggingface_hub's own session follows the proxy settings as all other requests do."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import huggingface_hub
import pytest

from modelfetch.cli.app import run
from modelfetch.demo import models as made
from modelfetch.demo.hub import Hub
from modelfetch.demo.world import World
from modelfetch.http.proxies import Exempt, exemptions
from modelfetch.sources.huggingface.client import watched

if TYPE_CHECKING:
    from collections.abc import Iterator


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
