"""With a real certificate: which hosts are contacted over TLS, over plain HTTP, or not at all."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from modelfetch.demo.hub import Hub
from tests.sources.bench import SourceBench, bench_for
from tests.sources.test_oci import ONE, publish

if TYPE_CHECKING:
    from collections.abc import Iterator

PEM = Path(__file__).parent / "data" / "localhost.pem"


@pytest.fixture
def hub() -> Iterator[Hub]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    with Hub(ssl_context=context) as running:
        publish(running, ONE)
        running.world.hf_repo("org/repo", {"config.json": b"{}"})
        yield running


@pytest.fixture
def bench(hub: Hub, home: Path) -> Iterator[SourceBench]:
    bench = bench_for(hub, home)
    yield bench
    bench.http.close()


def _registry(hub: Hub) -> str:
    return "oci://" + hub.ollama.removeprefix("https://") + "/fleet/tiny:v1"


@pytest.mark.usefixtures("trusted")
def test_tls_is_preferred_even_where_plain_http_is_allowed(bench: SourceBench, hub: Hub) -> None:
    found = bench.resolve(_registry(hub))
    assert found.artifacts[0].locations[0].url.startswith("https://127.0.0.1:")
    assert bench.http.requests == 1


@pytest.mark.usefixtures("trusted")
def test_the_hub_is_reached_by_tls(bench: SourceBench) -> None:
    assert bench.resolve("hf://org/repo/config.json").artifacts[0].size == 2


def test_an_untrusted_certificate_is_an_error_without_fallback_to_plain_http(bench: SourceBench, hub: Hub) -> None:
    error = bench.refusal(_registry(hub))
    assert (error.exit_code, error.code, error.permanent) == (69, "certificate", True)
    assert "SSL_CERT_FILE=/PATH/ca.pem" in (error.hint or "")
    assert bench.http.requests == 1
    assert hub.log.requests() == []
    assert bench.waits == []


@pytest.mark.parametrize("uri", ["hf://org/repo/config.json", "ollama://tiny:1b", "civitai://1"])
def test_every_source_names_the_certificate(bench: SourceBench, hub: Hub, uri: str) -> None:
    error = bench.refusal(uri)
    assert (error.exit_code, error.code, error.permanent) == (69, "certificate", True)
    assert "SSL_CERT_FILE=/PATH/ca.pem" in (error.hint or "")
    assert "SSL_CERT_FILE" in str(error.hint)
    assert hub.log.requests() == []


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(PEM))
