from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfetch.config.options import parse_consumer_dir
from modelfetch.config.secret import CredentialFileError, Secret
from modelfetch.config.settings import Settings
from modelfetch.errors import SettingError
from tests.cases import each
from tests.examples import any_text

if TYPE_CHECKING:
    from collections.abc import Mapping

PLANTED = "planted-Secret-0123456789abcdef"


def _from(**environ: str) -> Settings:
    return Settings.from_env({"HOME": "/home/someone", **environ})


def test_a_bare_environment_gives_the_public_hosts() -> None:
    settings = Settings.from_env({})
    assert settings.hf_endpoint == "https://huggingface.co"
    assert settings.ollama_registry == "https://registry.ollama.ai"
    assert settings.civitai_endpoint == "https://civitai.com"
    assert (settings.offline, settings.mirrors, settings.tiers_dir, settings.cache) == (False, (), None, None)


def test_an_empty_variable_is_an_unset_one() -> None:
    names = [
        "HF_ENDPOINT",
        "HF_TOKEN",
        "HF_TOKEN_PATH",
        "HF_HUB_OFFLINE",
        "CIVITAI_API_TOKEN",
        "CIVITAI_API_TOKEN_FILE",
    ]
    names += ["MODELFETCH_OLLAMA_REGISTRY", "MODELFETCH_ALLOW_HTTP", "MODELFETCH_MIRRORS", "MODELFETCH_TIERS_DIR"]
    empty, blank = _from(**dict.fromkeys(names, "")), _from(**dict.fromkeys(names, "  "))
    for settings in (empty, blank):
        assert (settings.hf_endpoint, settings.offline) == ("https://huggingface.co", False)
        assert settings.tiers_dir is None
        assert settings.civitai_token.value() is None
        assert settings.mirrors == ()


@each(
    ("environ", "offline"),
    [
        ({"HF_HUB_OFFLINE": "1"}, True),
        ({"HF_HUB_OFFLINE": "true"}, True),
        ({"HF_HUB_OFFLINE": "0"}, False),
        ({"TRANSFORMERS_OFFLINE": "yes"}, True),
    ],
)
def test_offline_is_spelled_as_the_hub_spells_it(environ: Mapping[str, str], offline: bool) -> None:
    assert _from(**environ).offline is offline


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_tokens_are_stripped() -> None:
    settings = _from(HF_TOKEN=" hf_x\n", CIVITAI_API_TOKEN="\tc\n")
    assert (settings.hf_token.value(), settings.civitai_token.value()) == ("hf_x", "c")


def test_tokens_are_read_from_files_as_compose_secrets_lie_there(tmp_path: Path) -> None:
    (tmp_path / "hf").write_text("hf_file\n")
    (tmp_path / "civitai").write_text("c_file\n")
    settings = _from(HF_TOKEN_PATH=str(tmp_path / "hf"), CIVITAI_API_TOKEN_FILE=str(tmp_path / "civitai"))
    assert (settings.hf_token.value(), settings.civitai_token.value()) == ("hf_file", "c_file")


def test_a_token_in_the_environment_beats_its_file(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("file")
    settings = _from(
        HF_TOKEN="env",
        HF_TOKEN_PATH=str(tmp_path / "t"),
        CIVITAI_API_TOKEN="c",
        CIVITAI_API_TOKEN_FILE=str(tmp_path / "t"),
    )
    assert (settings.hf_token.value(), settings.civitai_token.value()) == ("env", "c")


def test_a_token_file_that_the_hub_would_overlook_is_overlooked(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    assert _from(HF_TOKEN_PATH=str(tmp_path / "none")).hf_token.value() is None
    assert _from(HF_TOKEN_PATH=str(tmp_path / "empty")).hf_token.value() is None


EACH_EMPTY = """
import os, sys
from modelfetch.config.settings import Settings
for name in ("HF_TOKEN_PATH", "HF_HOME", "HF_TOKEN", "XDG_CACHE_HOME"):
    if os.fork() == 0:
        assert "huggingface_hub" not in sys.modules, "it reads its settings once, when it is imported"
        os.environ[name] = ""
        print(name, Settings.from_env().hf_token.value(), flush=True)
        os._exit(0)
    os.wait()
"""


def test_the_hubs_own_package_sees_an_empty_variable_as_an_unset_one(tmp_path: Path) -> None:
    home = tmp_path / ".cache/huggingface"
    home.mkdir(parents=True)
    (home / "token").write_text("hf_stored")
    unset = ("HF_", "XDG_")
    environ = {key: value for key, value in os.environ.items() if not key.startswith(unset)}
    environ |= {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", EACH_EMPTY], env=environ, capture_output=True, text=True, cwd=tmp_path)
    names = ("HF_TOKEN_PATH", "HF_HOME", "HF_TOKEN", "XDG_CACHE_HOME")
    assert done.stdout.splitlines() == [f"{name} hf_stored" for name in names], done.stderr


def test_the_token_that_the_hubs_own_login_stored_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    (tmp_path / "token").write_text("hf_stored")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    assert _from().hf_token.value() == "hf_stored"


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "bytes", "large"])
def test_a_stored_token_that_can_not_be_read_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    import huggingface_hub.constants

    path = tmp_path / "token"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"\xff\xfe" if kind == "bytes" else b"x" * 100_000)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(path))
    with pytest.raises(CredentialFileError, match=re.escape(str(path))):
        _from().hf_token.value()


@each(
    ("environ", "name"),
    [
        ({"HF_TOKEN": f"{PLANTED} {PLANTED}"}, "HF_TOKEN"),
        ({"HF_TOKEN": f"{PLANTED}\u00e9"}, "HF_TOKEN"),
        ({"HF_TOKEN": f"{PLANTED}\nX-Evil: 1"}, "HF_TOKEN"),
        ({"CIVITAI_API_TOKEN": "x" * 5000}, "CIVITAI_API_TOKEN"),
        ({"CIVITAI_API_TOKEN_FILE": "/nowhere/at/all"}, "CIVITAI_API_TOKEN_FILE"),
        ({"CIVITAI_API_TOKEN_FILE": "/"}, "CIVITAI_API_TOKEN_FILE"),
        ({"HF_TOKEN_PATH": "/"}, "HF_TOKEN_PATH"),
    ],
)
def test_an_impossible_token_is_78_and_only_its_variable_is_shown(environ: Mapping[str, str], name: str) -> None:
    settings = _from(**environ)
    with pytest.raises(SettingError) as caught:
        (settings.hf_token if name.startswith("HF") else settings.civitai_token).value()
    assert caught.value.exit_code == 78
    assert str(caught.value).startswith(name + ":")
    assert PLANTED not in str(caught.value) + str(caught.value.hint)


def test_a_token_file_of_binary_junk_is_78(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingError, match="CIVITAI_API_TOKEN_FILE"):
        _from(CIVITAI_API_TOKEN_FILE=str(tmp_path / "t")).civitai_token.value()


def test_a_secret_is_read_once_and_never_shown() -> None:
    reads: list[int] = []

    def read() -> str:
        reads.append(1)
        return PLANTED

    secret = Secret(read)
    settings = Settings(hf_token=secret)
    assert (secret.value(), secret.value(), len(reads)) == (PLANTED, PLANTED, 1)
    assert PLANTED not in repr(secret) + str(secret) + repr(settings)


# -- addresses ---------------------------------------------------------------------------------------------------------


def test_an_endpoint_loses_its_last_slash() -> None:
    assert _from(HF_ENDPOINT="https://mirror.example/hf/").hf_endpoint == "https://mirror.example/hf"


@each("name", ["HF_ENDPOINT", "MODELFETCH_OLLAMA_REGISTRY", "MODELFETCH_CIVITAI_ENDPOINT"])
@each(
    "value",
    [
        "mirror.example",
        "ftp://mirror.example",
        "https://",
        "https://a b",
        "https://host:99999",
        "https://host:x",
        "https://host/?q=1",
        "https://host/#x",
        f"https://user:{PLANTED}@host",
        "https://[::1",
        "https://ho\u00e9st",
    ],
)
def test_an_endpoint_that_is_no_plain_url_is_78(name: str, value: str) -> None:
    with pytest.raises(SettingError, match=name) as caught:
        _from(**{name: value})
    assert caught.value.exit_code == 78
    assert PLANTED not in str(caught.value)


def test_an_endpoint_in_the_clear_must_be_allowed() -> None:
    with pytest.raises(SettingError) as caught:
        _from(HF_ENDPOINT="http://hub.lan:8080")
    assert caught.value.code == "insecure-http"
    assert "MODELFETCH_ALLOW_HTTP=hub.lan" in str(caught.value.hint)
    assert (
        _from(HF_ENDPOINT="http://hub.lan:8080", MODELFETCH_ALLOW_HTTP="hub.lan").hf_endpoint == "http://hub.lan:8080"
    )
    assert _from(HF_ENDPOINT="http://127.0.0.1:8080").hf_endpoint == "http://127.0.0.1:8080"


@each(
    ("host", "port", "allowed"),
    [
        ("127.0.0.1", 1, True),
        ("127.9.9.9", 1, True),
        ("::1", 1, True),
        ("localhost", 1, True),
        ("hub", 80, True),
        ("HUB", 80, True),
        ("registry", 5000, True),
        ("registry", 5001, False),
        ("2001:db8::1", 80, True),
        ("hub.example", 80, False),
        ("evil-hub", 80, False),
        ("10.0.0.1", 80, False),
    ],
)
def test_hosts_that_may_use_plain_http(host: str, port: int, allowed: bool) -> None:
    settings = _from(MODELFETCH_ALLOW_HTTP="hub, registry:5000,,[2001:db8::1]")
    assert settings.allows_http(host, port) is allowed


@each("value", ["http://hub", "hub/path", "a b", "*", "hub:port", "hub:123456"])
def test_a_list_of_hosts_accepts_only_hosts(value: str) -> None:
    with pytest.raises(SettingError, match="MODELFETCH_ALLOW_HTTP"):
        _from(MODELFETCH_ALLOW_HTTP=value)


def test_mirrors_are_pairs_of_url_prefixes() -> None:
    settings = _from(
        MODELFETCH_MIRRORS="https://huggingface.co/=https://cache.example/hf/, http://old.lan=https://new.example,"
    )
    assert settings.mirrors == (
        ("https://huggingface.co", "https://cache.example/hf"),
        ("http://old.lan", "https://new.example"),
    )


@each(
    "value",
    ["https://a.example", "a=b", "https://a.example=", "https://a.example=http://cache.lan", f"https://a.example=https://u:{PLANTED}@b"],
)  # fmt: skip
def test_invalid_mirrors_are_78(value: str) -> None:
    with pytest.raises(SettingError, match="MODELFETCH_MIRRORS") as caught:
        _from(MODELFETCH_MIRRORS=value)
    assert PLANTED not in str(caught.value)


def test_user_paths_are_read_from_the_environment() -> None:
    settings = _from(MODELFETCH_TIERS_DIR="~/tiers", MODELFETCH_CACHE="/var/cache/models")
    assert settings.tiers_dir == Path("/home/someone/tiers")
    assert settings.cache_path() == Path("/var/cache/models")
    assert settings.netrc == Path("/home/someone/.netrc")
    assert settings.docker_config == Path("/home/someone/.docker/config.json")
    assert _from(NETRC="/x").netrc == Path("/x")
    assert _from(DOCKER_CONFIG="/d").docker_config == Path("/d/config.json")
    assert _from().cache_path().name == "modelfetch"


@pytest.mark.parametrize("home", [None, ""])
def test_a_user_without_a_home_folder_has_the_paths_of_a_container_without_one(
    home: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(_: int) -> None:
        raise KeyError("uid not found")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME") if home is None else monkeypatch.setenv("HOME", home)
    assert Settings.from_env({}).cache_path() == Path("/.cache/modelfetch")
    assert Settings.from_env({"MODELFETCH_TIERS_DIR": "~/tiers"}).tiers_dir in (Path("~/tiers"), Path("/tiers"))
    assert parse_consumer_dir("comfyui=~nobody-of-this-name/x")[1].name == "x"


@each(
    "value",
    [
        "http://127.0.0.1:3128",
        "proxy.lan:3128",
        "proxy.lan",
        "https://me:word@proxy.lan:3128/",
        "HTTP://me:p%2Fq%40r@proxy.lan:1",
        "http://[::1]:3128",
        "",
        "  ",
    ],
)
def test_a_proxy_is_an_address_with_or_without_scheme_and_login(value: str) -> None:
    _from(HTTPS_PROXY=value, all_proxy=value)


@each("name", ["HTTPS_PROXY", "http_proxy", "ALL_PROXY"])
@each(
    "value",
    [
        f"http://me:{PLANTED}/x@proxy.lan:3128",  # the password ends at the slash, and the rest of it is read as a port
        f"http://me:{PLANTED}@proxy.lan:port",
        f"ftp://me:{PLANTED}@proxy.lan",
        f"http://me:{PLANTED}@proxy.lan:0",
        f"http://me:{PLANTED}@",
        f"http://[::1/{PLANTED}",
    ],
)
def test_an_invalid_proxy_is_78_and_only_its_variable_is_shown(name: str, value: str) -> None:
    with pytest.raises(SettingError) as caught:
        _from(**{name: value})
    assert str(caught.value).startswith(name + ":")
    assert PLANTED not in str(caught.value) + str(caught.value.hint)


def test_a_socks_proxy_without_the_package_for_it_is_78(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelfetch.config.settings.find_spec", lambda _name: None)
    with pytest.raises(SettingError, match="ALL_PROXY: a SOCKS proxy needs"):
        _from(ALL_PROXY="socks5://127.0.0.1:1080")
    monkeypatch.setattr("modelfetch.config.settings.find_spec", lambda _name: object())
    _from(ALL_PROXY="socks5h://127.0.0.1:1080")


@each("login", [f"{'u' * 256}:p", f"u:{'%2F' * 256}", f"u:{'ü' * 128}"])
def test_a_socks_proxy_with_a_login_that_it_can_not_carry_is_78(login: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modelfetch.config.settings.find_spec", lambda _name: object())
        with pytest.raises(SettingError, match=r"ALL_PROXY: .* 255 bytes") as caught:
            _from(ALL_PROXY=f"socks5://{login}@127.0.0.1:1080")
    assert login not in caught.value.message
    _from(HTTPS_PROXY=f"http://{login}@127.0.0.1:1080")


@given(
    st.dictionaries(
        st.sampled_from(["HF_ENDPOINT", "MODELFETCH_MIRRORS", "MODELFETCH_ALLOW_HTTP", "HTTPS_PROXY"]),
        any_text(max_size=60),
    )
)
def test_no_value_of_a_variable_causes_a_traceback(environ: dict[str, str]) -> None:
    with contextlib.suppress(SettingError):
        Settings.from_env(environ)


def test_reading_settings_reads_no_file(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.write_text("x")
    closed.chmod(stat.S_IWUSR)
    assert _from(HF_TOKEN_PATH=str(closed), CIVITAI_API_TOKEN_FILE=str(tmp_path / "none")).offline is False


@each(
    ("value", "required"),
    [("1", True), (" YES ", True), ("on", True), ("0", False), ("False", False), ("off", False), ("", False)],
)
def test_the_marker_of_a_root_is_required_by_a_flag(value: str, required: bool) -> None:
    assert Settings.from_env({"MODELFETCH_REQUIRE_MARKER": value}).require_marker is required


def test_a_flag_that_protects_a_root_is_never_ignored() -> None:
    with pytest.raises(SettingError, match="MODELFETCH_REQUIRE_MARKER=ture: expected 1 or 0"):
        Settings.from_env({"MODELFETCH_REQUIRE_MARKER": "ture"})
