from __future__ import annotations

import httpx
import pytest
import respx

from modelfetch.config.settings import Settings
from modelfetch.errors import UnreachableError
from modelfetch.http import Http
from modelfetch.http.auth import Credentials
from modelfetch.http.redirects import leads_elsewhere, method_after, next_hop, rewrite
from tests.cases import each


def _client(**environ: str) -> Http:
    settings = Settings.from_env({"HF_TOKEN_PATH": "/nowhere", **environ})
    return Http(allow_http=settings.allows_http, auth=Credentials(settings))


def test_a_prefix_ends_at_a_boundary() -> None:
    rules = [("https://a.example", "https://b.example")]
    assert rewrite("https://a.example/x", rules) == "https://b.example/x"
    assert rewrite("https://a.example?x", rules) == "https://b.example?x"
    assert rewrite("https://a.example.org/x", rules) == "https://a.example.org/x"


def test_a_relative_location_is_resolved() -> None:
    assert next_hop("https://a/b/c?d", "../e", lambda _h, _p: False) == "https://a/e"
    assert next_hop("https://a/b", "http://127.0.0.1:5/x", lambda _h, _p: False) == "http://127.0.0.1:5/x"
    assert next_hop("https://a/b", "http://lan/x", lambda host, port: (host, port) == ("lan", 80)) == "http://lan/x"


def test_a_redirect_to_a_host_that_no_name_server_can_know_is_an_error() -> None:
    """A SOCKS proxy can't be asked for it either."""
    longest = "a." * 126 + "b"
    assert next_hop("https://a/b", f"https://{longest}/", lambda _h, _p: False)
    with pytest.raises(UnreachableError, match="redirects to an invalid URL"):
        next_hop("https://a/b", f"https://a{longest}/", lambda _h, _p: False)


@each(
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


@each(
    ("location", "elsewhere"),
    [
        ("/b", False),
        ("https://h/b", False),
        ("https://h:443/b", False),
        ("http://h/b", True),
        ("//cdn/b", True),
        ("https://h.cdn/b", True),
        ("http://[", False),
        ("ftp://x", False),
    ],
)
def test_a_redirect_to_another_host_is_recognised(location: str, elsewhere: bool) -> None:
    assert leads_elsewhere("https://h/a", location) is elsewhere


@respx.mock
def test_a_token_and_a_cookie_are_sent_only_to_the_first_host() -> None:
    there = httpx.Response(307, headers={"Location": "https://cdn.example/x", "Set-Cookie": "session=1"})
    hub = respx.get("https://huggingface.co/a/b/resolve/main/x").mock(return_value=there)
    cdn = respx.get("https://cdn.example/x").mock(return_value=httpx.Response(200, content=b"body"))
    client = _client(HF_TOKEN="word")
    reply = client.get("https://huggingface.co/a/b/resolve/main/x")
    client.close()
    assert (reply.body, reply.url, reply.authorized) == (b"body", "https://cdn.example/x", False)
    assert hub.calls.last.request.headers["authorization"] == "Bearer word"
    assert not {"authorization", "cookie"} & set(cdn.calls.last.request.headers)


@respx.mock
def test_a_redirect_out_of_an_endpoint_loses_its_token_on_the_same_host() -> None:
    moved = httpx.Response(302, headers={"Location": "/generic/x"})
    respx.get("https://artifacts.corp/hf/api/models/a/b").mock(return_value=moved)
    other = respx.get("https://artifacts.corp/generic/x").mock(return_value=httpx.Response(401))
    client = _client(HF_ENDPOINT="https://artifacts.corp/hf", HF_TOKEN="word")
    reply = client.get("https://artifacts.corp/hf/api/models/a/b")
    client.close()
    assert (reply.status, reply.authorized) == (401, False)
    assert "authorization" not in other.calls.last.request.headers


@respx.mock
def test_a_redirect_to_another_host_can_be_returned() -> None:
    headers = {"Location": "https://cdn.example/x", "X-Linked-Etag": '"1"'}
    respx.head("https://hub.example/old").mock(return_value=httpx.Response(307, headers={"Location": "/new"}))
    respx.head("https://hub.example/new").mock(return_value=httpx.Response(302, headers=headers))
    client = _client()
    with client.open("HEAD", "https://hub.example/old", leave_host=False) as response:
        assert (response.status, response.headers["x-linked-etag"], response.redirected) == (302, '"1"', True)
    client.close()


@respx.mock
def test_a_form_becomes_a_get_after_303_and_keeps_its_body_after_307() -> None:
    for status, method, content in ((303, "GET", b""), (307, "POST", b"a=1")):
        respx.post("https://h.example/form").mock(
            return_value=httpx.Response(status, headers={"Location": "https://h.example/done"})
        )
        done = respx.route(method=method, url="https://h.example/done").mock(return_value=httpx.Response(200))
        client = _client()
        client.get("https://h.example/form", method="POST", data=b"a=1")
        client.close()
        assert done.calls.last.request.content == content


@respx.mock
def test_a_token_server_of_the_same_domain_gets_the_password_and_one_elsewhere_does_not(tmp_path: object) -> None:
    netrc = f"{tmp_path}/netrc"
    with open(netrc, "w") as file:  # noqa: PTH123
        file.write("machine registry-1.docker.io login me password word\n")
    for realm, sent in (("https://auth.docker.io/token", True), ("https://elsewhere.net/token", False)):
        url = "https://registry-1.docker.io/v2/a/b/manifests/latest"
        challenge = httpx.Response(401, headers={"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'})
        respx.get(url).mock(side_effect=[challenge, httpx.Response(200)])
        server = respx.get(url__startswith=realm).mock(return_value=httpx.Response(200, json={"token": "t"}))
        client = _client(NETRC=netrc)
        assert client.get(url).status == 200
        client.close()
        assert ("authorization" in server.calls.last.request.headers) is sent
