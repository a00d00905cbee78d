from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfetch.core.urls import display_url
from modelfetch.manifest.paste import from_paste
from modelfetch.manifest.uri import MAX_URI, is_repo_id, parse_uri, shown
from tests.cases import each
from tests.examples import any_text
from tests.manifest.helpers import COMMIT, SHA


def parsed(text: str) -> dict[str, Any]:
    uri = parse_uri(text)
    assert uri.text == text
    assert str(uri) == display_url(text)
    return {"scheme": uri.scheme} | {f.name: getattr(uri, f.name) for f in fields(uri) if f.name != "text"}


def hf(repo: str, revision: str | None = None, path: str | None = None) -> dict[str, Any]:
    return {"scheme": "hf", "repo": repo, "revision": revision, "path": path}


@each(
    ("text", "expected"),
    [
        ("hf://ns/repo", hf("ns/repo")),
        ("hf://ns/repo/", hf("ns/repo")),
        ("HF://ns/repo", hf("ns/repo")),
        ("hf://Systran/faster-whisper-large-v3", hf("Systran/faster-whisper-large-v3")),
        ("hf://ASLP-lab/DiffRhythm-1_2@main", hf("ASLP-lab/DiffRhythm-1_2", "main")),
        ("hf://_ns/_re.po_/a", hf("_ns/_re.po_", None, "a")),
        ("hf://ns/repo/a/b c.bin".replace(" ", "%20"), hf("ns/repo", None, "a/b c.bin")),
        (f"hf://ns/repo@{COMMIT}/a/b.bin", hf("ns/repo", COMMIT, "a/b.bin")),
        (f"hf://ns/repo@{COMMIT.upper()}", hf("ns/repo", COMMIT)),
        ("hf://ns/repo@refs/pr/12/a.bin", hf("ns/repo", "refs/pr/12", "a.bin")),
        ("hf://ns/repo@refs/pr/12", hf("ns/repo", "refs/pr/12")),
        ("hf://ns/repo@refs%2Fpr%2F12/a.bin", hf("ns/repo", "refs/pr/12", "a.bin")),
        ("hf://ns/repo@refs/pr/x/a.bin", hf("ns/repo", "refs", "pr/x/a.bin")),
        ("hf://ns/repo@feature%2Fx/a.bin", hf("ns/repo", "feature/x", "a.bin")),
        ("hf://ns/repo@v1.0/refs/pr/1", hf("ns/repo", "v1.0", "refs/pr/1")),
        ("hf://ns/repo/a@b.bin", hf("ns/repo", None, "a@b.bin")),
        ("hf://ns/repo@main/ü.bin", hf("ns/repo", "main", "ü.bin")),
    ],
)
def test_hf_uris_are_parsed(text: str, expected: dict[str, Any]) -> None:
    assert parsed(text) == expected


@each(
    "text",
    [
        "hf://",
        "hf:///",
        "hf://repo",
        "hf:///repo",
        "hf://ns/",
        "hf://ns//x",
        "hf://ns/@main",
        "hf://ns/repo@",
        "hf://ns/repo@/a",
        "hf://ns/repo@main?x",
        "hf://ns/repo#x",
        "hf://n s/repo",
        "hf://ns/re--po",
        "hf://ns/re..po",
        "hf://ns/repo.git",
        "hf://../repo",
        "hf://ns/..",
        "hf://ns/.",
        "hf://-ns/repo",
        "hf://ns/repo-",
        "hf://ns/" + "x" * 97,
        "hf://ns%2Frepo/x",
        "hf://ns/repo@../x",
        "hf://ns/repo@..%2F..%2Fx",
        "hf://ns/repo@a%2F..%2Fb",
        "hf://ns/repo@a%2F.%2Fb",
        "hf://ns/repo@a%2F%2Fb",
        "hf://ns/repo@%2Fetc",
        "hf://ns/repo@a%00b",
        "hf://ns/repo@.x",
        "hf://ns/repo@a%2F",
        "hf://ns/repo@-x",
        "hf://ns/repo@ü",
        "hf://ns/repo/../x",
        "hf://ns/repo/a/../../x",
        "hf://ns/repo/%2e%2e/x",
        "hf://ns/repo/..%2Fx",
        "hf://ns/repo//x",
        "hf://ns/repo/a/",
        "hf://ns/repo/%2Fetc",
        "hf://ns/repo/a%5Cb",
        "hf://ns/repo/a%00b",
        "hf://ns/repo/a%0Ab",
        "hf://ns/repo/%ff",
        "hf://ns/repo/C:x",
        "hf://datasets/ns/repo",
        "hf://spaces/ns/repo",
        "hf://models/ns/repo",
        "hf://datasets/ns/repo@main/x",
    ],
)
def test_invalid_hf_uris_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected .*, found"):
        parse_uri(text)


def test_a_commit_has_forty_hex_digits() -> None:
    commits = [
        getattr(parse_uri(f"hf://a/b{rev}"), "commit", None) for rev in ("", "@main", f"@{COMMIT}", f"@{COMMIT[:39]}")
    ]
    assert commits == [None, None, COMMIT, None]


def ollama(host: str, namespace: str, model: str, tag: str) -> dict[str, Any]:
    return {"scheme": "ollama", "host": host, "namespace": namespace, "model": model, "tag": tag}


@each(
    ("text", "expected"),
    [
        ("ollama://llama3.2:3b", ollama("registry.ollama.ai", "library", "llama3.2", "3b")),
        ("ollama://llama3.2", ollama("registry.ollama.ai", "library", "llama3.2", "latest")),
        ("ollama://mxbai/embed:v1", ollama("registry.ollama.ai", "mxbai", "embed", "v1")),
        (
            "ollama://hf.co/bartowski/Llama-3.2-1B-GGUF:Q4_K_M",
            ollama("hf.co", "bartowski", "Llama-3.2-1B-GGUF", "Q4_K_M"),
        ),
        ("ollama://registry.example/m", ollama("registry.example", "library", "m", "latest")),
        ("ollama://localhost/m", ollama("localhost", "library", "m", "latest")),
        ("ollama://localhost:5000/ns/m:t", ollama("localhost:5000", "ns", "m", "t")),
        ("ollama://127.0.0.1:5000/m", ollama("127.0.0.1:5000", "library", "m", "latest")),
        ("ollama://host/ns/m", ollama("host", "ns", "m", "latest")),
        ("ollama://_h/_n/_m:_t", ollama("_h", "_n", "_m", "_t")),
    ],
)
def test_ollama_uris_are_parsed(text: str, expected: dict[str, Any]) -> None:
    assert parsed(text) == expected


@each(
    "text",
    [
        "ollama://",
        "ollama://:tag",
        "ollama://m:",
        "ollama://m:a:b",
        "ollama://a/b/c/d",
        "ollama:///m",
        "ollama://h//m",
        "ollama://m/",
        "ollama://../m",
        "ollama://h/../m",
        "ollama://..",
        "ollama://m:..",
        "ollama://h/n/..",
        "ollama://.h/n/m",
        "ollama://h/n/.m",
        "ollama://n.s/a.b/m",
        "ollama://h/n%2F/m",
        "ollama://m@sha256:" + SHA,
        "ollama://m?x",
        "ollama://m#x",
        "ollama://-m",
        "ollama://m:-t",
        "ollama://h:0/n/m",
        "ollama://h:65536/n/m",
        "ollama://h:/n/m",
        "ollama://h:٣/n/m",
        "ollama://h/n/" + "m" * 81,
        "ollama://ü",
        "ollama://" + "h" * 351 + "/n/m",
        "ollama://" + "h" * 256 + ".x/n/m",
        "ollama://user@h/n/m",
        "ollama://[::1]/n/m",
    ],
)
def test_invalid_ollama_uris_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected .*, found"):
        parse_uri(text)


@each(
    ("text", "version", "file"),
    [
        ("civitai://128078", 128078, None),
        ("civitai://128078?fileId=93208", 128078, 93208),
        ("urn:air:sdxl:checkpoint:civitai:101055@128078", 128078, None),
        ("URN:AIR:sd1:lora:civitai:1@2+3", 2, 3),
    ],
)
def test_civitai_uris_are_parsed(text: str, version: int, file: int | None) -> None:
    found = parsed(text)
    assert (found["scheme"], found["version"], found["file"]) == ("civitai", version, file)
    assert (found["choices"], found["host"], found["token"]) == ((), None, None)


@each(
    "text",
    [
        "civitai://",
        "civitai://x",
        "civitai://-1",
        "civitai://0",
        "civitai://1?fileId=0",
        "urn:air:sdxl:lora:civitai:1@0",
        "civitai://1?fileId=",
        "civitai://1?fileId=x",
        "civitai://1?x=1",
        "civitai://1/2",
        "civitai://٣",
        "civitai://" + "1" * 13,
        "urn:air:sdxl:checkpoint:civitai:1",
        "urn:air:sdxl:checkpoint:huggingface:1@2",
        "urn:air:",
        "urn:air:a:b:civitai:x@2",
        "urn:air:a:b:civitai:1@2+",
        "urn:air:a:b:civitai:1@2x",
        "urn:other:a",
    ],
)
def test_invalid_civitai_uris_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected .*, found"):
        parse_uri(text)


@each(
    ("text", "url", "path"),
    [
        ("https://h.example/a/b.safetensors", "https://h.example/a/b.safetensors", "/a/b.safetensors"),
        ("https://h.example", "https://h.example", ""),
        ("HTTPS://H.example:8443/x", "https://H.example:8443/x", "/x"),
        ("https://h.example/a%20b.bin?sig=1&x=/y#frag", "https://h.example/a%20b.bin?sig=1&x=/y", "/a b.bin"),
        ("https://h.example/a@b.bin?to=x@y", "https://h.example/a@b.bin?to=x@y", "/a@b.bin"),
        ("http://127.0.0.1:8000/x", "http://127.0.0.1:8000/x", "/x"),
        ("http://[::1]:8000/x", "http://[::1]:8000/x", "/x"),
        ("https://h.example/../../x", "https://h.example/../../x", "/../../x"),
    ],
)
def test_https_uris_are_parsed(text: str, url: str, path: str) -> None:
    assert parsed(text) == {"scheme": "https", "url": url, "path": path}


@each(
    ("text", "host", "port"),
    [
        ("https://H.example/x", "h.example", 443),
        ("http://h/x", "h", 80),
        ("http://[::1]:81/x", "::1", 81),
        ("https://h:0443/x", "h", 443),
    ],
)
def test_an_https_uri_has_a_host(text: str, host: str, port: int) -> None:
    uri = parse_uri(text)
    assert (getattr(uri, "host", None), getattr(uri, "port", None)) == (host, port)


@each(
    "text",
    [
        "https://",
        "https:///x",
        "https://:443/x",
        "https://h:/x",
        "https://h:0/x",
        "https://h:65536/x",
        "https://h:x/y",
        "https://h x/y",
        "https://h\\x/y",
        "https://h/a\\b",
        "https://h%2ex/y",
        "https://ü.example/x",
        "https://[::1/x",
        "https://[x]/y",
        "https://[::::]/y",
        "https://h/\u2028x",
        "https://h/x\u202e",
        "https://h/a\tb",
        "https://h/a\nb",
        "https://h/\xa0",
        "https://h/\ud800",
        "https://-h/x",
        "https:h/x",
        "https:/h/x",
        "//h/x",
        "h.example/x",
        "ftp://h/x",
        "s3://b/x",
        "data:text/plain,x",
        "javascript:x",
        "",
        "x",
        "://x",
        "hf:ns/repo",
        "https://h/" + "x" * MAX_URI,
    ],
)
def test_invalid_https_uris_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected .*, found"):
        parse_uri(text)


@each(
    "text",
    [
        "https://me:secret@h/x",
        "https://secret@h/x",
        "http://me:secret@h:99999/x",
        "ftp://me:secret@h/x",
        "https://h:x/y?token=secret",
        "https://me:pa/secret@h/x",
        "https:/me:secret@h/x",
        "//me:secret@h/x",
        "oci://me:secret@h/r",
    ],
)
def test_a_refused_uri_is_shown_without_credentials(text: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_uri(text)
    assert "secret" not in str(error.value)


def test_a_uri_is_shown_short_and_bare() -> None:
    assert shown("https://me:pw@h/x?token=1#y") == "'https://h/x?…'"
    assert shown("hf://ns/repo@main/x") == "'hf://ns/repo@main/x'"
    assert len(shown("https://h/" + "x" * 10_000)) < 130
    assert "\n" not in shown("a\nb")


@each(
    ("text", "path"),
    [
        ("file:///a/b.bin", "/a/b.bin"),
        ("file://localhost/a", "/a"),
        ("file:///a%20b", "/a b"),
        ("file:///a/./b", "/a/b"),
        ("file:///a/../b", "/a/../b"),
        ("file:///a?b", "/a?b"),
    ],
)
def test_file_uris_are_parsed(text: str, path: str) -> None:
    assert parsed(text) == {"scheme": "file", "path": path}


@each(
    "text",
    [
        "file://",
        "file:///",
        "file://a/b",
        "file://./a",
        "file:///a/",
        "file:///a%00",
        "file:///%ff",
        "file:/a",
        "file://localhostx/a",
    ],
)
def test_invalid_file_uris_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected .*, found"):
        parse_uri(text)


@each(
    ("text", "host", "repo", "tag", "digest"),
    [
        ("oci://ghcr.io/org/model:v1", "ghcr.io", "org/model", "v1", None),
        ("oci://localhost:5000/m", "localhost:5000", "m", None, None),
        (f"oci://ghcr.io/a/b/c@sha256:{SHA}", "ghcr.io", "a/b/c", None, f"sha256:{SHA}"),
        ("oci://[::1]:5000/a__b/c-d.e:T_1", "[::1]:5000", "a__b/c-d.e", "T_1", None),
    ],
)
def test_oci_uris_are_parsed(text: str, host: str, repo: str, tag: str | None, digest: str | None) -> None:
    found = parsed(text)
    assert (found["host"], found["repo"], found["tag"]) == (host, repo, tag)
    assert (str(found["digest"]) if found["digest"] else None) == digest


@each(
    "text",
    [
        "oci://",
        "oci://h",
        "oci://h/",
        "oci:///r",
        "oci://h/R",
        "oci://h/r:",
        "oci://h/r:a:b",
        "oci://h/r@",
        "oci://h/r@sha256:x",
        "oci://h/../r",
        f"oci://h/r@blake3:{SHA}",
        f"oci://h/r:t@sha256:{SHA}",
        "oci://h/a//b",
        "oci://h/-a",
        "oci://h/r/",
        "oci://h/r:" + "t" * 129,
        "oci://h/" + "r" * 256,
        "oci://h:99999/r",
        "oci://h/r?x",
        "oci://h/" + "a-" * 1500,
    ],
)
def test_invalid_oci_uris_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected .*, found"):
        parse_uri(text)


@each(
    ("text", "good"),
    [("gpt2", True), ("ns/repo", True), ("a/b/c", False), ("", False), ("a/", False), ("../a", False), ("a--b", False)],
)
def test_repo_ids(text: str, good: bool) -> None:
    assert is_repo_id(text) is good


STARTS = [
    "",
    "hf://",
    "ollama://",
    "civitai://",
    "https://",
    "http://",
    "file:///",
    "oci://",
    "urn:air:",
    "hf://a/b@",
    "https://[",
]


@given(st.sampled_from(STARTS), any_text(max_size=60) | st.text("ab./@:%2eF?#[]-_0", max_size=60))
def test_any_text_is_a_uri_or_a_value_error_on_one_line(start: str, rest: str) -> None:
    try:
        uri, refused = parse_uri(start + rest), ""
    except ValueError as error:
        uri, refused = None, str(error)
    if uri is None:
        assert "expected" in refused
        assert "\n" not in refused
    else:
        assert uri.text == from_paste(start + rest)
        assert parse_uri(uri.text) == uri
