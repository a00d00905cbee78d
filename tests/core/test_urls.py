from __future__ import annotations

from hypothesis import given

from modelfetch.core.urls import (
    below,
    credential_fields,
    display_url,
    hide_secrets,
    is_loopback,
    redact,
    without_credentials,
    without_secret_parameters,
)
from modelfetch.manifest.uri import HttpUri, parse_uri
from modelfetch.manifest.uri import shown as shorten
from tests.cases import each
from tests.examples import any_text


@each(
    ("url", "shown"),
    [
        ("https://u:p@host:8/a/b?token=x#f", "https://host:8/a/b"),
        ("https://host", "https://host"),
        ("https://[::1", "(malformed URL)"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert redact(url) == shown


@given(any_text(max_size=80))
def test_any_text_can_be_shown(text: str) -> None:
    redact(text)


@each("host", ["localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_this_machine_is_loopback(host: str) -> None:
    assert is_loopback(host)


@each("host", ["localhost.example", "128.0.0.1", "example.org", "::2", ""])
def test_other_hosts_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)


@each(
    "query",
    [
        "token=SECRET",
        "a=1&api_key=SECRET",
        "X-Amz-Signature=SECRET",
        "sig=SECRET",
        "Policy=SECRETSECRET",
        "SECRET",
        "auth=SECRET",
        "access_token=SECRET&x=1",
        "AccessKeyId=SECRET",
        "unknown=SECRET-of-some-length",
        "%74oken=SECRET",
        "file=hf_SECRETabcdefghijkl",
        "hf_SECRETabcdefghijkl=1",
        "SECRET-of-some-length=",
        "path=/x?token=SECRET",
        "name=x%3Ftoken%3DSECRET",
        "file=https://me:SECRET@h/",
        "sas=SECRET",
        "sessionid=SECRET",
        "id=eyJhbGciOiJI.SECRETSECRETSECRET",
    ],
)
def test_a_secret_in_a_query_is_not_displayed(query: str) -> None:
    shown = display_url(f"https://me:SECRET@h.example/x?{query}#SECRET")
    assert "SECRET" not in shown
    assert shown.startswith("https://h.example/x?")
    assert display_url(shown) == shown or "redacted-" in shown


@each(
    "path",
    [
        "a;token=SECRET/x.bin",
        "a/x.bin;token=SECRET",
        "a;v=1;jsessionid=SECRET/b/x.bin",
        "a;%74oken=SECRET/x",
        "a%3Btoken=SECRET/x",
        "a%3btoken%3DSECRET/x",
        ";sig=SECRET/x",
        "a;x=SECRET-of-some-length/x",
        "a;name=hf_SECRETabcdefghijkl/x",
        "a;v=1%3Bkey=SECRET;sas=SECRET/x;auth=SECRET?token=SECRET",
        "a;token=SE/x;token=SECRET=SECRET",
        "x.bin%3Ftoken=SECRET",
        "x.bin%3Fv=1%26sig%3DSECRET",
        "x.bin&token=SECRET/b",
        "x.bin%3fv=1&x=hf_SECRETabcdefghijkl",
        "dl/hf_SECRETabcdefghijklmnopqrstuv/x.bin",
        "a/ghp_SECRETabcdefghijklmnopqrstuv/x.bin",
        "a/glpat-SECRET_bcdefghijklmnopqrst",
        "d/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.SECRET-x_y/x.bin",
        "a/p/SECRETabcdefghijklmnop-qrstu_vwxyz/n/space/b/bucket/o/x.bin",
        "get/token/SECRETSECRET/x.bin",
        "get/access_token=SECRETSECRET/x.bin",
        "get/token:SECRETSECRET/x.bin",
        "a/hdnts=exp=1~acl=*~hmac=SECRETSECRET/x.bin",
        "a/HF_SECRETabcdefghijklmnopqrstuv/../x.bin",
    ],
)
def test_a_secret_in_a_path_parameter_is_shown_nowhere(path: str) -> None:
    url = f"https://me:SECRET@h.example/{path}"
    for shown in (display_url(url), redact(url), without_secret_parameters(path.partition("?")[0]), repr(shorten(url))):
        assert "SECRET" not in shown
    assert credential_fields(url) or "some-length" in path
    assert "SECRET" not in " ".join(credential_fields(url))
    assert display_url(url).startswith("https://h.example/")
    assert display_url(url) != display_url(url.replace("SECRET", "OTHER"))


@each(
    "path",
    [
        *["a;type=Model/x", "a;v=1/x", "a;b/x", "a;/;=/x", "a=b/x", "a;file=x.bin/x", "a&b/x", "a%3Fv=1&w=2/x", "x&y"],
        *["hf_models/x", "task-classification-of-some-length/x", "a/eyJabc.safetensors", "p/x/n/y", "token/x.bin"],
        "glpat-x/hf_small-model_of_some_length.bin",
    ],
)
def test_other_path_parameters_are_displayed(path: str) -> None:
    url = f"https://h/{path}"
    assert (display_url(url), redact(url), without_secret_parameters(path)) == (url, url, path)


def test_a_path_is_written_without_its_credentials() -> None:
    assert without_credentials("https://h/a;token=x;v=1/b;sig=y?z=1") == "https://h/a;v=1/b?z=1"


def test_a_file_is_not_named_after_a_secret() -> None:
    uri = parse_uri("https://h/a/model.safetensors;token=SECRET")
    assert isinstance(uri, HttpUri)
    assert uri.path == "/a/model.safetensors"
    assert uri.url.endswith(";token=SECRET")


@each(
    "url",
    [
        "https://h/x?type=Model&format=SafeTensor&size=pruned&fp=fp16",
        "https://h/x?fileId=123456789",
        "https://h/x?a=1",
        "https://h/x?file=some-long-name.safetensors",
        "https://h/x?download",
        "hf://a/b",
        "https://h/x",
    ],
)
def test_query_parameters_that_select_a_file_are_displayed(url: str) -> None:
    assert display_url(url) == url


@each(
    ("query", "left"),
    [
        ("?token=x", ""),
        ("?model=a-name-of-some-length&api_key=x&download=1#f", "?model=a-name-of-some-length&download=1"),
        ("?x=hf_abcdefghijklmnop", ""),
        ("?a=1&&b=2", "?a=1&b=2"),
        ("", ""),
    ],
)
def test_an_address_is_written_without_its_credentials_and_with_all_else(query: str, left: str) -> None:
    assert without_credentials(f"https://me:word@h.example/x{query}") == f"https://h.example/x{left}"


def test_addresses_that_differ_only_by_their_secret_are_distinguished() -> None:
    first, second = (display_url(f"https://h/x?token={word}") for word in ("one", "two"))
    assert first != second


@given(any_text(max_size=80))
def test_any_text_can_be_displayed(text: str) -> None:
    display_url(text)
    credential_fields("https://h/?" + text)


@each(
    ("query", "names"),
    [
        ("token=x", ("token",)),
        ("a=1&sig=x", ("sig",)),
        ("X-Amz-Signature=x", ("X-Amz-Signature",)),
        ("token=", ()),
        ("file=x", ()),
        ("design=x", ()),
        ("monkey=x", ()),
        ("sas=x&JSESSIONID=y&dlkey=z", ("sas", "JSESSIONID", "dlkey")),
        ("Policy=x&Key-Pair-Id=y&GoogleAccessId=z", ("Policy", "Key-Pair-Id", "GoogleAccessId")),
        ("api-key=x&password=y", ("api-key", "password")),
        ("x=hf_abcdefghijklmnop&file=ghp_abcdefghijklmnop", ("x", "file")),
        ("hf_abcdefghijklmnop", ("one without a name",)),
        ("x=hf_model-small&file=risk-sk-x", ()),
        ("x=1#/hf_abcdefghijklmnopqrstuvwxyz/", ()),
    ],
)
def test_fields_that_look_like_credentials_are_found(query: str, names: tuple[str, ...]) -> None:
    assert credential_fields(f"https://h/x?{query}") == names


@each(
    ("url", "endpoint", "path"),
    [
        ("https://h/a/b?c", "https://h", "/a/b"),
        ("HTTPS://H:443/hub/b", "https://h/hub", "/b"),
        ("https://h/hub", "https://h/hub", ""),
        ("http://h:80/x/y", "http://H/x", "/y"),
        ("https://h/hub-2/b", "https://h/hub", None),
        ("https://h:444/b", "https://h", None),
        ("http://h/b", "https://h", None),
        ("https://h/hub/../b", "https://h/hub", None),
        ("https://h/hub/%2e%2e/b", "https://h/hub", None),
    ],
)
def test_the_path_of_a_url_below_an_endpoint(url: str, endpoint: str, path: str | None) -> None:
    assert below(url, endpoint) == path


@each(
    ("message", "shown"),
    [
        ("found 'https://me:SECRET@h.example/x'", "found 'https://h.example/x'"),
        ("https:/me:SECRET@h.example/x: no such file", "https:/h.example/x: no such file"),
        ("found 'https://me:SECR", "found 'https://"),
        ("https://h.example:80/x, https://[::1]:8/y: z", "https://h.example:80/x, https://[::1]:8/y: z"),
        ("HTTPS://h.example/x?fileId=1 and /a?token=x", "HTTPS://h.example/x?fileId=1 and /a?token=x"),
        ("write http://[USER:PASSWORD@]HOST[:PORT]", "write http://[USER:PASSWORD@]HOST[:PORT]"),
        ("HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT", "HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT"),
        ("https://h.example: refused", "https://h.example: refused"),
        ("civitai://1?fileId=5&type=Model: not found", "civitai://1?fileId=5&type=Model: not found"),
        ("what is it? hf://a/b or oci://h:5/b:c?", "what is it? hf://a/b or oci://h:5/b:c?"),
        ("JOBS=socks5://me:SECRET@h:1: expected a number", "JOBS=socks5://h:1: expected a number"),
        ("found 'oci://me:SECRET@h.example/x:y'", "found 'oci://h.example/x:y'"),
        (
            "oci://h:5000/x@sha256:00 hf://a/b@main ollama://m:1b",
            "oci://h:5000/x@sha256:00 hf://a/b@main ollama://m:1b",
        ),
    ],
)
def test_an_address_in_a_message_shows_no_secret(message: str, shown: str) -> None:
    assert hide_secrets(message) == shown


@given(any_text(max_size=80))
def test_an_address_that_is_hidden_already_stays_as_it_is(text: str) -> None:
    hide_secrets(text)
    message = hide_secrets(
        "x: https://h.example/a;sig=SECRETSECRET/b?token=SECRET&y=1&SECRETSECRET: refused, 's3://b/x?v=1&sig=SECRET'"
    )
    assert "SECRET" not in message
    assert hide_secrets(message) == message
