"""URIs on a command line, and the errors for other texts."""

from __future__ import annotations

import pytest

from modelfetch.config.settings import Settings
from modelfetch.errors import SettingError, UsageError
from modelfetch.sources.argument import parse_argument
from tests.cases import each


@each(
    ("text", "message", "hint"),
    [
        ("llama3.2", "expected a URI", "a model of Ollama's library is written ollama://llama3.2"),
        ("acme/art", "expected a URI", "ollama://acme/art; a repo of the hub: hf://acme/art"),
        ("qwen3:8", "expected a URI", "ollama://qwen3:8"),
        ("ghcr.io/o/r:1", "expected a URI", "oci://ghcr.io/o/r:1"),
        ("models.example.com/a.gguf", "expected a URI", "https://models.example.com/a.gguf"),
        ("./x.gguf", "expected a URI", "a local file is written file:///"),
        ("a b", "expected a URI", "otherwise"),
        ("x.safetensors", "expected a URI", "otherwise"),
        ("https://civitai.com/models/9", "the page of all its versions", "or write civitai://N"),
        ("https://github.com/a/b", "another page of GitHub", "write https://github.com/a/b/releases/download/TAG/FILE"),
    ],
)
def test_an_invalid_uri_gets_a_hint_with_a_valid_one(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_argument(text, "otherwise", Settings())
    assert hint in str(caught.value.hint)
    assert hint not in caught.value.message


def test_a_uri_is_parsed() -> None:
    assert str(parse_argument(" ollama run llama3.2:3b", "", Settings())) == "ollama://llama3.2:3b"


def test_plain_http_is_refused_unless_its_host_is_allowed() -> None:
    text = "http://plain.example:8080/x.gguf?token=secret"
    with pytest.raises(
        SettingError, match=r"^http://plain\.example:8080/x\.gguf\S* would be accessed without"
    ) as caught:
        parse_argument(text, "otherwise", Settings())
    assert (caught.value.exit_code, caught.value.code) == (78, "insecure-http")
    assert caught.value.hint == "use https, or name the host in MODELFETCH_ALLOW_HTTP=plain.example"
    assert "secret" not in caught.value.message
    for allowed in ("plain.example", "plain.example:8080"):
        settings = Settings.from_env({"MODELFETCH_ALLOW_HTTP": allowed})
        assert parse_argument(text, "otherwise", settings).scheme == "https"
    assert parse_argument("http://127.0.0.1:9/x", "otherwise", Settings()).scheme == "https"
