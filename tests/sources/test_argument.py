"""URIs on a command line, and the errors for other texts."""

from __future__ import annotations

import pytest

from modelfetch.errors import UsageError
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
        parse_argument(text, "otherwise")
    assert hint in str(caught.value.hint)
    assert hint not in caught.value.message


def test_a_uri_is_parsed() -> None:
    assert str(parse_argument(" ollama run llama3.2:3b", "")) == "ollama://llama3.2:3b"
