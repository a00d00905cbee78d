from __future__ import annotations

import base64
import json
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given

from modelfetch.config.settings import Settings
from modelfetch.core.cancel import Cancel
from modelfetch.demo.hub import Hub
from modelfetch.errors import CredentialsError, InterruptedSync, ModelfetchError, SettingError, UnreachableError
from modelfetch.http import Http
from modelfetch.http.auth import Credentials, stores
from modelfetch.http.auth.challenge import (
    Challenge,
    may_request_token,
    may_send_password,
    parse_challenges,
    repository_of,
)
from tests.cases import each
from tests.examples import any_text
from tests.faults import RedirectTo, Stall, Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from modelfetch.http import Reply

PLANTED = "planted-Secret-0123456789abcdef"


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _credentials(home: Path, **environ: str) -> Credentials:
    return Credentials(Settings.from_env({"HOME": str(home), "HF_TOKEN_PATH": str(home / "none"), **environ}))


# -- access to credentials ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "url", "seen"),
    [
        ({}, "https://huggingface.co/api/models/x", True),
        ({}, "https://HuggingFace.co/x", True),
        ({}, "https://huggingface.co:443/x", True),
        ({}, "https://hf.co/v2/a/b/manifests/x", True),
        ({}, "http://huggingface.co/x", False),
        ({}, "https://huggingface.co:8443/x", False),
        ({}, "https://huggingface.co.evil.example/x", False),
        ({}, "https://evil-huggingface.co/x", False),
        ({}, "https://huggingface.co@evil.example/x", False),
        ({}, "https://cdn-lfs.huggingface.co/x", False),
        ({}, "https://us.aws.cdn.hf.co/x", False),
        ({}, "https://civitai.com/x", False),
        ({"HF_ENDPOINT": "https://hub.corp"}, "https://hub.corp/x", True),
        ({"HF_ENDPOINT": "https://hub.corp"}, "https://huggingface.co/x", False),
        ({"HF_ENDPOINT": "https://hub.corp"}, "https://hf.co/x", False),
        ({"HF_ENDPOINT": "https://hub.corp"}, "http://hub.corp/x", False),
        ({"HF_ENDPOINT": "http://127.0.0.1:81"}, "http://127.0.0.1:81/x", True),
        ({"HF_ENDPOINT": "http://127.0.0.1:81"}, "http://127.0.0.1:82/x", False),
    ],
)
def test_the_hub_token_is_sent_only_to_the_hub(
    tmp_path: Path, environ: Mapping[str, str], url: str, seen: bool
) -> None:
    found = _credentials(tmp_path, HF_TOKEN=PLANTED, **environ).headers(url)
    assert found == ({"Authorization": f"Bearer {PLANTED}"} if seen else {})


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("https://civitai.com/api/download/models/1", True),
        ("http://civitai.com/api/download/models/1", False),
        ("https://civitai.red/api/download/models/1", True),
        ("https://civitai.red.evil.example/api/download/models/1", False),
        ("https://x.r2.cloudflarestorage.com/x", False),
        ("https://huggingface.co/x", False),
    ],
)
def test_the_civitai_token_is_sent_only_to_civitai(tmp_path: Path, url: str, seen: bool) -> None:
    found = _credentials(tmp_path, CIVITAI_API_TOKEN=PLANTED).headers(url)
    assert found == ({"Authorization": f"Bearer {PLANTED}"} if seen else {})


@each("token", [f"{PLANTED}\n", f" {PLANTED}"])
def test_white_space_around_the_token_in_a_link_is_left_out(tmp_path: Path, token: str) -> None:
    credentials = _credentials(tmp_path)
    credentials.use_civitai_token(token)
    assert credentials.headers("https://civitai.com/api/v1/x") == {"Authorization": f"Bearer {PLANTED}"}
    assert credentials.headers("https://huggingface.co/x") == {}


@each("token", [f"a\r\nHost: {PLANTED}", f"{PLANTED}\0", f"{PLANTED} b", f"ü{PLANTED}", "  "])
def test_a_token_in_a_link_that_no_header_can_carry_is_refused_without_being_shown(tmp_path: Path, token: str) -> None:
    credentials = _credentials(tmp_path)
    credentials.use_civitai_token(token)
    with pytest.raises(SettingError, match="the token in the link: expected a token") as caught:
        credentials.headers("https://civitai.com/api/v1/x")
    assert PLANTED not in f"{caught.value}{caught.value.hint}"
    other = _credentials(tmp_path, CIVITAI_API_TOKEN=PLANTED)
    other.use_civitai_token(token)
    assert other.headers("https://civitai.com/api/v1/x") == {"Authorization": f"Bearer {PLANTED}"}


@pytest.mark.parametrize(
    "url", ["", "x", "//host/x", "ftp://huggingface.co/x", "https://", "https://[::1", "https://h:x/"]
)
def test_an_invalid_url_gets_no_credentials(tmp_path: Path, url: str) -> None:
    assert _credentials(tmp_path, HF_TOKEN=PLANTED).headers(url) == {}


# -- netrc -------------------------------------------------------------------------------------------------------------


def test_netrc_applies_to_its_machines_and_its_default_is_ignored(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine files.example login me password word\ndefault login any password thing\n")
    credentials = _credentials(tmp_path)
    assert credentials.headers("https://files.example/x") == {"Authorization": _basic("me", "word")}
    assert credentials.headers("https://FILES.example/x") == {"Authorization": _basic("me", "word")}
    assert credentials.headers("https://other.example/x") == {}
    assert credentials.headers("https://sub.files.example/x") == {}
    assert credentials.headers("http://files.example/x") == {}


@pytest.mark.parametrize(
    ("environ", "url", "seen"),
    [
        ({"HF_ENDPOINT": "https://cache.corp/hf"}, "https://cache.corp/hf/api/models/x", _basic("me", "word")),
        ({"HF_ENDPOINT": "https://cache.corp", "HF_TOKEN": "t"}, "https://cache.corp/x", "Bearer t"),
        ({"MODELFETCH_CIVITAI_ENDPOINT": "https://cache.corp"}, "https://cache.corp/x", _basic("me", "word")),
        ({"MODELFETCH_CIVITAI_ENDPOINT": "https://cache.corp"}, "http://cache.corp/x", None),
        # These accept no passwords: with one that a user keeps for git they would refuse public files.
        ({}, "https://huggingface.co/x", None),
        ({}, "https://hf.co/v2/a/b/manifests/x", None),
        ({}, "https://civitai.com/x", None),
    ],
)
def test_netrc_applies_to_a_custom_hub_without_a_token(
    tmp_path: Path, environ: Mapping[str, str], url: str, seen: str | None
) -> None:
    hosts = ("cache.corp", "huggingface.co", "hf.co", "civitai.com")
    (tmp_path / ".netrc").write_text("".join(f"machine {host} login me password word\n" for host in hosts))
    found = _credentials(tmp_path, **environ).headers(url)
    assert found == ({"Authorization": seen} if seen else {})


def test_netrc_passwords_are_sent_over_plain_http_only_to_allowed_hosts(tmp_path: Path) -> None:
    (tmp_path / "n").write_text("machine files.lan login me password word\n")
    credentials = _credentials(tmp_path, NETRC=str(tmp_path / "n"), MODELFETCH_ALLOW_HTTP="files.lan:8080")
    assert credentials.headers("http://files.lan:8080/x") != {}
    assert credentials.headers("http://files.lan/x") == {}


@pytest.mark.parametrize(
    "content",
    [
        f"machine files.example login me password {PLANTED} {PLANTED}\nnonsense {PLANTED}".encode(),
        b"\xff\xfe" + PLANTED.encode(),
        f"password {PLANTED}".encode(),
    ],
)
def test_a_broken_netrc_counts_as_empty_until_a_credential_is_needed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".netrc").write_bytes(content)
    credentials = _credentials(tmp_path)
    assert credentials.headers("https://files.example/x") == {}
    assert credentials.challenged("https://files.example/x", 403, {}, _never) is False
    with pytest.raises(CredentialsError) as caught:
        credentials.challenged("https://files.example/x?sig=1", 401, {}, _never)
    assert str(tmp_path / ".netrc") in str(caught.value)
    assert PLANTED not in _everything(caught.value)
    assert "sig" not in str(caught.value)


def test_an_unreadable_file_of_tokens_is_named_where_its_hub_denies_access(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    places = {"HF_TOKEN_PATH": str(tmp_path / "folder"), "CIVITAI_API_TOKEN_FILE": str(tmp_path / "absent")}
    credentials = _credentials(tmp_path, **places)
    for url, name in (
        ("https://huggingface.co/a/b/resolve/main/x", "HF_TOKEN_PATH"),
        ("https://civitai.com/api/download/models/1", "CIVITAI_API_TOKEN_FILE"),
    ):
        assert credentials.headers(url) == {}
        for status in (401, 403):
            with pytest.raises(CredentialsError, match=name):
                credentials.challenged(url, status, {}, _never)
    assert credentials.challenged("https://cdn.example/x", 401, {}, _never) is False


@pytest.mark.parametrize("mode", ["home", "file"])
def test_files_that_may_not_be_read_are_named_only_where_they_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    def denied(path: Path, *_args: object, **_named: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.stat" if mode == "home" else "pathlib.Path.open", denied)
    credentials = _credentials(tmp_path, HF_TOKEN_PATH=str(tmp_path / "token"))
    for url in ("https://files.example/x", "https://huggingface.co/x", "https://r.example/v2/a/manifests/b"):
        assert credentials.headers(url) == {}
    if mode == "home":
        with pytest.raises(CredentialsError, match=r"\.netrc can't be read: Permission denied"):
            credentials.challenged("https://files.example/x", 401, {}, _never)


# -- two services on one host ------------------------------------------------------------------------------------------

_HOST = "https://artifacts.corp"


@pytest.mark.parametrize(
    ("hf", "civitai", "url", "seen"),
    [
        ("/hf", "/civitai", "/hf/api/models/a/b", "hf-word"),
        ("/hf", "/civitai", "/hf/a/b/resolve/main/x", "hf-word"),
        ("/hf", "/civitai", "/civitai/api/v1/model-versions/1", "civitai-word"),
        ("/hf", "/civitai", "/civitai/api/download/models/1?fileId=2", "civitai-word"),
        ("/hf", "/civitai", "/generic/model.safetensors", None),
        ("/hf", "/civitai", "/hfx/api/models/a/b", None),
        ("/hf", "/civitai", "/hf/../generic/x", None),
        ("/hf", "/civitai", "/hf/%2e%2e/generic/x", None),
        ("", "/civitai", "/civitai/api/v1/model-versions/1", "civitai-word"),
        ("", "/civitai", "/a/b/resolve/main/x", "hf-word"),
        ("/all", "/all/civitai", "/all/civitai/api/v1/model-versions/1", "civitai-word"),
        ("/all", "/all/civitai", "/all/api/models/a/b", "hf-word"),
        ("", "", "/api/models/a/b", "hf-word"),
        ("", "", "/a/b/resolve/main/x", "hf-word"),
        ("", "", "/api/v1/model-versions/1", "civitai-word"),
        ("", "", "/api/download/models/1", "civitai-word"),
    ],
)
def test_of_two_services_on_one_host_each_gets_its_own_token(
    tmp_path: Path, hf: str, civitai: str, url: str, seen: str | None
) -> None:
    credentials = _credentials(
        tmp_path,
        HF_ENDPOINT=_HOST + hf,
        HF_TOKEN="hf-word",
        MODELFETCH_CIVITAI_ENDPOINT=_HOST + civitai,
        CIVITAI_API_TOKEN="civitai-word",
    )
    assert credentials.headers(_HOST + url) == ({"Authorization": f"Bearer {seen}"} if seen else {})


def test_a_token_of_one_service_is_not_sent_to_another(tmp_path: Path) -> None:
    credentials = _credentials(
        tmp_path, HF_ENDPOINT=_HOST, HF_TOKEN="hf-word", MODELFETCH_CIVITAI_ENDPOINT=f"{_HOST}/civitai"
    )
    assert credentials.headers(f"{_HOST}/civitai/api/download/models/1") == {}


def _never(*_args: object, **_named: object) -> Reply:
    raise AssertionError("no request is expected")


def _everything(error: BaseException | None) -> str:
    """Return all that a traceback would show of an error and of its causes."""
    text = ""
    while error is not None:
        text += f"{error!r} {error} {error.args} {vars(error)}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return text


# -- registries --------------------------------------------------------------------------------------------------------


@each(
    ("header", "found"),
    [
        ('Bearer realm="https://a/t",service="s",scope="repository:x:pull"',
         [Challenge(scheme="bearer", realm="https://a/t", service="s", scope="repository:x:pull")]),
        ('Bearer realm="https://a/t", service=s', [Challenge(scheme="bearer", realm="https://a/t", service="s")]),
        ('Basic realm="x"', [Challenge(scheme="basic", realm="x")]),
        ("Basic", [Challenge(scheme="basic")]),
        ('Negotiate, Basic realm="x, y"', [Challenge(scheme="negotiate"), Challenge(scheme="basic", realm="x, y")]),
        ('Bearer realm="a\\"b"', [Challenge(scheme="bearer", realm='a"b')]),
        ('BEARER Realm="r",error="insufficient_scope"', [Challenge(scheme="bearer", realm="r")]),
        ("", []),
        ('="x"', []),
        ("x" * 9000, []),
    ],
)  # fmt: skip
def test_a_challenge_is_read(header: str, found: list[Challenge]) -> None:
    assert list(parse_challenges(header)) == found


@given(any_text(max_size=200))
def test_any_challenge_is_read_or_ignored(header: str) -> None:
    for challenge in parse_challenges(header):
        assert challenge.scheme == challenge.scheme.lower()


@each(
    ("registry", "realm", "asked", "password"),
    [
        ("https://registry.example/v2/x", "https://registry.example/token", True, True),
        ("https://registry.example/v2/x", "https://registry.example:8443/token", True, True),
        ("https://registry-1.docker.io/v2/x", "https://auth.docker.io/token", True, True),
        ("https://registry.gitlab.com/v2/x", "https://gitlab.com/jwt/auth", True, True),
        ("https://registry.example/v2/x", "https://evil.net/token", True, False),
        ("https://registry.example/v2/x", "https://evil.example/token", True, False),
        ("https://a.registry.example/v2/x", "https://evilregistry.example/token", True, False),
        ("https://10.0.0.1/v2/x", "https://9.0.0.1/token", True, False),
        ("https://registry.example/v2/x", "http://registry.example/token", False, True),
        ("http://registry.lan:5000/v2/x", "http://registry.lan:5000/token", True, True),
        ("http://registry.lan:5000/v2/x", "http://registry.lan:5001/token", False, True),
        ("https://registry.example/v2/x", "https://u:p@registry.example/token", False, True),
        ("https://registry.example/v2/x", "file:///etc/passwd", False, False),
        ("https://registry.example/v2/x", "/token", False, False),
    ],
)
def test_which_token_servers_are_used_and_which_get_the_password(
    registry: str, realm: str, asked: bool, password: bool
) -> None:
    assert may_request_token(registry, realm, same_host_only=False) is asked
    if asked:
        assert may_send_password(registry, realm) is password


@each(
    ("url", "repository"),
    [
        ("https://r/v2/a/b/manifests/latest", "a/b"),
        ("https://r/v2/a/b/blobs/sha256:1", "a/b"),
        ("https://r/v2/a/blobs/uploads/", "a"),
        ("https://r/v2/", None),
        ("https://r/api/v2/a/manifests/x", None),
    ],
)
def test_the_repository_is_read_from_the_address(url: str, repository: str | None) -> None:
    assert repository_of(url) == repository


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        running.world.ollama_model("library/tiny:1b", [("model", b"GGUF")])
        yield running


class RegistryClient:
    """A client of the hub's registry with a user's credentials."""

    def __init__(self, hub: Hub, home: Path, **environ: str) -> None:
        settings = Settings.from_env({"HOME": str(home), "HF_TOKEN_PATH": str(home / "none"), **environ})
        self.now = 0.0
        self.credentials = Credentials(settings, clock=lambda: self.now)
        self.http = Http(allow_http=settings.allows_http, auth=self.credentials)
        self.url = hub.ollama + "/v2/library/tiny/manifests/1b"

    def status(self) -> int:
        return self.http.get(self.url).status


@pytest.fixture
def ask(hub: Hub, tmp_path: Path) -> Iterator[Any]:
    made: list[RegistryClient] = []

    def make(**environ: str) -> RegistryClient:
        made.append(RegistryClient(hub, tmp_path, **environ))
        return made[-1]

    yield make
    for asker in made:
        asker.http.close()


def _docker(home: Path, **config: Any) -> None:
    (home / ".docker").mkdir(exist_ok=True)
    (home / ".docker" / "config.json").write_text(json.dumps(config))


def _host(hub: Hub) -> str:
    return hub.ollama.removeprefix("http://")


def _auth(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_a_login_of_docker_opens_a_registry(hub: Hub, ask: Any, tmp_path: Path) -> None:
    hub.world.ollama_login = ("me", "word")
    assert ask().status() == 401
    _docker(tmp_path, auths={_host(hub): _auth("me", "word")})
    assert ask().status() == 200
    token = hub.log.requests("/token")[-1]
    assert token.authorization == _basic("me", "word")
    assert "scope=repository%3Alibrary%2Ftiny%3Apull" in token.target


@pytest.mark.parametrize("scope", ["", ',scope=""'])
def test_without_a_scope_in_the_challenge_the_repository_is_requested(hub: Hub, ask: Any, scope: str) -> None:
    challenge = f'Bearer realm="{hub.ollama}/token",service="x"{scope}'
    hub.faults.add("/v2/*", Status(code=401, headers={"WWW-Authenticate": challenge}))
    assert ask().status() == 200
    assert "scope=repository%3Alibrary%2Ftiny%3Apull" in hub.log.requests("/token")[-1].target


def test_a_wrong_login_is_77_with_the_hint(hub: Hub, ask: Any, tmp_path: Path) -> None:
    hub.world.ollama_login = ("me", "word")
    _docker(tmp_path, auths={_host(hub): _auth("me", PLANTED)})
    with pytest.raises(CredentialsError) as caught:
        ask().status()
    assert caught.value.exit_code == 77
    assert "docker login" in str(caught.value.hint)
    assert PLANTED not in _everything(caught.value)


def test_netrc_opens_a_registry_too(hub: Hub, ask: Any, tmp_path: Path) -> None:
    hub.world.ollama_login = ("me", "word")
    (tmp_path / "n").write_text("machine 127.0.0.1 login me password word\n")
    assert ask(NETRC=str(tmp_path / "n")).status() == 200


def _helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "docker-credential-mine"
    program.write_text(
        f"#!{sys.executable}\nimport sys, json\nname = sys.stdin.read()\n"
        "with open(__file__.rpartition('/')[0] + '/calls', 'a') as calls: calls.write('.')\n"
        f"{body}\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_a_credential_helper_is_called_for_its_registry(
    hub: Hub, ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.world.ollama_login = ("me", "word")
    answer = f'print(json.dumps({{"Username": "me", "Secret": "word"}})) if name == "{_host(hub)}" else sys.exit(1)'
    _helper(tmp_path, monkeypatch, answer)
    _docker(tmp_path, credHelpers={_host(hub): "mine"})
    assert ask().status() == 200
    _docker(tmp_path, credsStore="mine")
    assert ask().status() == 200


def test_a_helper_without_a_login_falls_back_to_the_file(
    hub: Hub, ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.world.ollama_login = ("me", "word")
    _helper(tmp_path, monkeypatch, "print('credentials not found'); sys.exit(1)")
    _docker(tmp_path, credsStore="mine", auths={_host(hub): _auth("me", "word")})
    assert ask().status() == 200


@pytest.mark.parametrize(
    ("helper", "body"),
    [
        ("mine", f"print('{PLANTED}')"),
        ("mine", "print('[]')"),
        ("mine", f"while True: print('{PLANTED}' * 9999)"),
        ("mine", f"print('{PLANTED}'); sys.stdout.flush(); import time; time.sleep(60)"),
        ("absent", ""),
        ("../mine", ""),
        ("a b", ""),
    ],
)
def test_a_failing_helper_is_named_and_its_output_is_not_shown(
    hub: Hub, ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, helper: str, body: str
) -> None:
    hub.world.ollama_login = ("me", "word")
    _helper(tmp_path, monkeypatch, body)
    _docker(tmp_path, credsStore=helper)
    monkeypatch.setattr(stores, "_HELPER_TIMEOUT", 0.5)
    with pytest.raises(CredentialsError) as caught:
        ask().status()
    assert caught.value.exit_code == 77
    assert "docker" in str(caught.value)
    assert PLANTED not in _everything(caught.value)
    calls = tmp_path / "bin" / "calls"
    assert not calls.exists() or calls.read_text() == "."


@pytest.mark.parametrize("content", ["[]", "{", "null", "[" * 100_000, '{"auths": {"x": '])
def test_a_broken_config_of_docker_is_77_and_names_the_file(hub: Hub, ask: Any, tmp_path: Path, content: str) -> None:
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_text(content)
    hub.world.ollama_login = "anonymous"
    assert ask().status() == 200
    hub.world.ollama_login = ("me", "word")
    with pytest.raises(CredentialsError, match=r"config\.json"):
        ask().status()


@pytest.mark.parametrize("content", ["", "  \n", "{}"])
def test_an_empty_config_of_docker_is_no_problem(hub: Hub, ask: Any, tmp_path: Path, content: str) -> None:
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_text(content)
    hub.world.ollama_login = ("me", "word")
    assert ask().status() == 401


@pytest.mark.parametrize(
    "config",
    [
        {"auths": []},
        {"auths": {"HOST": "x"}},
        {"auths": {"HOST": {"auth": "!!!"}}},
        {"auths": {"HOST": {"auth": "bm9jb2xvbg=="}}},
        {"auths": {"HOST": {}}},
        {"credHelpers": 7, "credsStore": 8},
        {"auths": {"other.example": {"auth": "YTpi"}}},
    ],
)
def test_a_config_without_a_login_for_this_registry_changes_nothing(
    hub: Hub, ask: Any, tmp_path: Path, config: Any
) -> None:
    hub.world.ollama_login = ("me", "word")
    _docker(tmp_path, **json.loads(json.dumps(config).replace("HOST", _host(hub))))
    assert ask().status() == 401


def test_an_identity_token_is_exchanged_and_never_sent_as_a_password(hub: Hub, ask: Any, tmp_path: Path) -> None:
    hub.world.ollama_login = "anonymous"
    _docker(tmp_path, auths={_host(hub): {"identitytoken": PLANTED}})
    assert ask().status() == 200
    (token,) = hub.log.requests("/token")
    assert (token.method, token.authorization) == ("POST", None)
    assert f"refresh_token={PLANTED}".encode() in token.body


def test_basic_authentication_is_supported(hub: Hub, ask: Any, tmp_path: Path) -> None:
    hub.faults.add("/v2/*", Status(code=401, headers={"WWW-Authenticate": 'Basic realm="x"'}))
    _docker(tmp_path, auths={_host(hub): _auth("me", "word")})
    asker = ask()
    assert asker.status() == 200
    assert asker.status() == 200
    assert [entry.authorization for entry in hub.log.requests()] == [None, *[_basic("me", "word")] * 2]


def test_a_refused_password_is_not_sent_again(hub: Hub, ask: Any, tmp_path: Path) -> None:
    hub.faults.add("/v2/*", Status(code=401, headers={"WWW-Authenticate": 'Basic realm="x"'}), times=None)
    _docker(tmp_path, auths={_host(hub): _auth("me", "word")})
    assert ask().status() == 401
    assert len(hub.log.requests()) == 2


def test_a_token_is_fetched_once_for_many_threads_and_again_when_it_is_old(hub: Hub, ask: Any) -> None:
    hub.world.ollama_login = "anonymous"
    asker = ask()
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(asker.status())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert statuses == [200] * 8
    assert len(hub.log.requests("/token")) == 1
    asker.now += 299.0
    asker.status()
    assert len(hub.log.requests("/token")) == 2


def test_a_password_is_withheld_from_a_token_server_elsewhere(hub: Hub, ask: Any, tmp_path: Path) -> None:
    # On plain HTTP only the registry itself may be the token server; no other server is contacted.
    challenge = f'Bearer realm="{hub.cdn}/token",service="x",scope="repository:library/tiny:pull"'
    hub.faults.add("/v2/*", Status(code=401, headers={"WWW-Authenticate": challenge}))
    _docker(tmp_path, auths={_host(hub): _auth("me", PLANTED)})
    with pytest.raises(CredentialsError) as caught:
        ask().status()
    assert hub.log.requests(origin="cdn") == []
    assert PLANTED not in _everything(caught.value)


@pytest.mark.parametrize(
    ("answer", "exit_code"),
    [
        (Status(code=200, body="<html>"), 69),
        (Status(code=200, body="[]"), 69),
        (Status(code=200, body='{"token": 7}'), 69),
        (Status(code=200, body='{"token": "a b"}'), 69),
        (Status(code=200, body='{"token": "a\\r\\nX: y"}'), 69),
        (Status(code=200, body="[" * 100_000), 69),
        (Status(code=503), 69),
        (Status(code=429), 75),
        (Status(code=404), 66),
        (RedirectTo(url="http://evil.example/"), 69),
    ],
    ids=str,
)
def test_a_token_server_that_answers_badly_is_a_typed_error(hub: Hub, ask: Any, answer: Any, exit_code: int) -> None:
    hub.world.ollama_login = "anonymous"
    hub.faults.add("/token", answer)
    with pytest.raises(ModelfetchError) as caught:
        ask().status()
    assert caught.value.exit_code == exit_code


def test_a_password_for_the_token_server_does_not_follow_its_redirect(hub: Hub, ask: Any, tmp_path: Path) -> None:
    hub.world.ollama_login = ("me", PLANTED)
    _docker(tmp_path, auths={_host(hub): _auth("me", PLANTED)})
    hub.faults.add("/token", RedirectTo(url=hub.cdn + "/token"))
    with pytest.raises(ModelfetchError):
        ask().status()
    (elsewhere,) = hub.log.requests(origin="cdn")
    assert elsewhere.authorization is None


def test_a_refresh_token_does_not_follow_a_redirect_of_the_token_server(hub: Hub, ask: Any, tmp_path: Path) -> None:
    hub.world.ollama_login = "anonymous"
    _docker(tmp_path, auths={_host(hub): {"identitytoken": PLANTED}})
    hub.faults.add("/token", RedirectTo(url=hub.cdn + "/token", code=307))
    with pytest.raises(UnreachableError):
        ask().status()
    assert hub.log.requests(origin="cdn") == []


def test_a_lifetime_of_a_token_that_no_clock_reaches_is_accepted(hub: Hub, ask: Any) -> None:
    hub.world.ollama_login = "anonymous"
    hub.faults.add("/token", Status(code=200, body=f'{{"token": "unknown", "expires_in": 1{"0" * 400}}}'))
    assert ask().status() == 401


def test_the_request_for_a_token_is_cancelled_with_its_own(hub: Hub, ask: Any) -> None:
    hub.world.ollama_login = "anonymous"
    hub.faults.add("/token", Stall(seconds=20.0))
    cancel, asker = Cancel(), ask()
    threading.Timer(0.1, cancel.set).start()
    started = time.monotonic()
    with pytest.raises(InterruptedSync):
        asker.http.get(asker.url, cancel=cancel)
    assert time.monotonic() - started < 10.0


def test_the_repr_of_credentials_shows_no_token(tmp_path: Path) -> None:
    assert PLANTED not in repr(_credentials(tmp_path, HF_TOKEN=PLANTED))
