"""NO_PROXY in the forms used for curl, Go and Python."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfetch.errors import UnreachableError
from modelfetch.http import Http
from modelfetch.http.proxies import parse_exemptions, proxy_for, proxy_of
from tests.cases import each
from tests.examples import any_text
from tests.transfer.server import Origin


def is_exempt(text: str, host: str, port: int = 443, scheme: str = "https") -> bool:
    entries = parse_exemptions(text)
    return entries is None or any(entry.covers(scheme, host, port) for entry in entries)


@each(
    ("text", "inside", "outside"),
    [
        ("example.com", ["example.com", "EXAMPLE.com.", "a.b.example.com"], ["badexample.com", "example.com.org"]),
        (".example.com", ["a.example.com"], ["example.com", "badexample.com"]),
        ("*.example.com", ["a.example.com", "a.b.example.com"], ["example.com"]),
        ("Example.COM.", ["example.com"], []),
        ("*", ["anything", "::1", "10.0.0.1"], []),
        ("a.example, *", ["anything"], []),
        (" a.example ,, b.example\tc.example ", ["a.example", "b.example", "c.example"], ["d.example"]),
        ("localhost", ["localhost"], ["127.0.0.1"]),
        ("127.0.0.1", ["127.0.0.1"], ["127.0.0.2", "1.127.0.0.1"]),
        ("10.0.0.0/8", ["10.255.0.1"], ["11.0.0.1", "10.example"]),
        ("10.1.2.3/8", ["10.255.0.1"], []),
        ("::1", ["::1", "0:0:0:0:0:0:0:1"], ["::2", "1"]),
        ("[::1]", ["::1"], ["::2"]),
        ("fd00::/8", ["fd12::5"], ["fe80::1", "253.0.0.1"]),
        ("[fd00::]/8", ["fd12::5"], ["fe80::1"]),
        ("[fd00::/8]", ["fd12::5"], ["fe80::1"]),
        (
            "localhost,127.0.0.0/8,::1,[::1],fd00::/8,.svc",
            ["localhost", "127.9.9.9", "::1", "fd00::1", "x.svc"],
            ["svc"],
        ),
        ("10.0.0.0/33, [::1, fd00::/200, :, /, [], http://, a:b:c, x:0, x:99999, a@b, *x*", [], ["x", "a", "b", "::1"]),
        ("", [], ["a", "::1"]),
    ],
)
def test_which_hosts_an_entry_of_no_proxy_matches(text: str, inside: list[str], outside: list[str]) -> None:
    assert [host for host in inside if not is_exempt(text, host)] == []
    assert [host for host in outside if is_exempt(text, host)] == []


@each("text", ["hub.example:8443", "[::1]:8443", "10.0.0.1:8443", "https://hub.example:8443"])
def test_a_port_narrows_an_entry(text: str) -> None:
    host = {"[": "::1", "1": "10.0.0.1"}.get(text[0], "hub.example")
    assert is_exempt(text, host, 8443)
    assert not is_exempt(text, host, 443)


def test_a_scheme_narrows_an_entry() -> None:
    assert is_exempt("http://hub.example", "hub.example", 80, "http")
    assert not is_exempt("http://hub.example", "hub.example", 443, "https")


@given(text=any_text(max_size=40), host=any_text(min_size=1, max_size=20), port=st.integers(1, 65535))
def test_any_no_proxy_text_is_accepted(text: str, host: str, port: int) -> None:
    assert is_exempt(text, host, port) in (True, False)


@pytest.mark.parametrize("no_proxy", ["[::1]", "fd00::/8", "::1", "10.0.0.0/8,[::1]:80", "[[", "http://[", " , "])
def test_a_list_that_names_others_leaves_the_proxy_in_use(monkeypatch: pytest.MonkeyPatch, no_proxy: str) -> None:
    with Origin(b"by proxy") as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", no_proxy)
        client = Http(allow_http=lambda _h, _p: True)
        assert client.get("http://hub.example/x").body == b"by proxy"
        client.close()


@pytest.mark.parametrize("no_proxy", ["127.0.0.0/8", "*", "{host}:{port}", "[::1], 127.0.0.1", "http://127.0.0.1"])
def test_exempt_hosts_are_reached_without_the_proxy(monkeypatch: pytest.MonkeyPatch, no_proxy: str) -> None:
    with Origin(b"by proxy") as proxy, Origin(b"direct") as origin:
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", no_proxy.format(host="127.0.0.1", port=origin.port))
        client = Http()
        assert client.get(origin.url).body == b"direct"
        client.close()
        assert proxy.requests == []


def test_a_proxy_without_a_scheme_is_an_http_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    assert (proxy_for("https"), proxy_for("http")) == ("http://proxy.example:3128", None)
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy.example")
    assert proxy_for("http") == "socks5://proxy.example"


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", " ")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example")
    assert proxy_for("https") == "http://proxy.example"
    monkeypatch.setenv("https_proxy", "http://other.example")
    assert proxy_for("https") == "http://other.example"


def test_the_error_for_an_unknown_name_of_a_proxy_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "nowhere.invalid:3128")
    client = Http()
    with pytest.raises(UnreachableError, match=r"the proxy http://nowhere\.invalid:3128 \(HTTPS_PROXY\)"):
        client.get("https://hub.example/x")
    client.close()


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_a_proxy_that_can_not_be_reached_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    with Origin(b"") as origin:
        port = origin.port
    for user in ("", "me:secret@"):
        monkeypatch.setenv("HTTPS_PROXY", f"{scheme}{user}127.0.0.1:{port}")
        client = Http()
        with pytest.raises(UnreachableError) as caught:
            client.get("https://hub.example/x")
        client.close()
        assert f"through the proxy http://127.0.0.1:{port} (HTTPS_PROXY)" in str(caught.value)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "url", "shown"),
    [
        ({"HTTPS_PROXY": "p:1"}, "https://h/x", "http://p:1 (HTTPS_PROXY)"),
        ({"ALL_PROXY": "socks5://p:1"}, "https://h/x", "socks5://p:1 (ALL_PROXY)"),
        ({"HTTPS_PROXY": "p:1"}, "http://h/x", None),
        ({"HTTPS_PROXY": "p:1", "NO_PROXY": "h"}, "https://h/x", None),
        ({"HTTPS_PROXY": "p:1", "NO_PROXY": "10.0.0.0/8"}, "https://10.1.2.3/x", None),
        ({"HTTPS_PROXY": "p:1"}, "no url", None),
    ],
)
def test_the_proxy_of_an_address_is_known(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], url: str, shown: str | None
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    found = proxy_of(url)
    assert (found.shown if found else None) == shown
