from __future__ import annotations

import httpx
import pytest
import respx

from modelfetch.config.settings import Settings
from modelfetch.errors import CredentialsError, UnreachableError
from modelfetch.http import Http
from modelfetch.http.auth import Credentials


def _client(**environ: str) -> Http:
    settings = Settings.from_env({"HF_TOKEN_PATH": "/nowhere", **environ})
    return Http(allow_http=settings.allows_http, auth=Credentials(settings))


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


@respx.mock
@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (httpx.ConnectError("no"), "unreachable"),
        (httpx.ReadTimeout("late"), "timeout"),
        (httpx.RemoteProtocolError("odd"), "bad-response"),
        (httpx.ProxyError("502 Bad Gateway"), "unreachable"),
    ],
)
def test_each_failure_of_httpx_is_typed(failure: Exception, code: str) -> None:
    respx.get("https://h.example/x").mock(side_effect=failure)
    client = _client()
    with pytest.raises(UnreachableError) as caught:
        client.get("https://h.example/x?token=SECRET")
    client.close()
    assert caught.value.code == code
    assert "SECRET" not in str(caught.value)


@respx.mock
def test_a_proxy_that_requires_a_password_has_its_own_error() -> None:
    respx.get("https://h.example/x").mock(side_effect=httpx.ProxyError("407 Proxy Authentication Required"))
    client = _client()
    with pytest.raises(CredentialsError) as caught:
        client.get("https://h.example/x")
    client.close()
    assert caught.value.code == "proxy-credentials"
