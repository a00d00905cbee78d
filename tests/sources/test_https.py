from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given

from modelfetch.config.settings import Settings
from modelfetch.core.digest import Digest
from modelfetch.core.events import Notice
from modelfetch.http import Headers
from modelfetch.manifest.uri import parse_uri
from modelfetch.sources import SourceRequest, known
from modelfetch.sources.answers import disposition_name
from tests.cases import each
from tests.examples import any_text
from tests.faults import Chunked, Gzip, HtmlPage, IgnoreRange, RedirectTo, Status
from tests.sources.contract import OTHER, PLANTED, Case, NetworkContract

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from modelfetch.demo.hub import Hub
    from tests.sources.bench import SourceBench


class TestHttps(NetworkContract):
    @pytest.fixture
    def case(self, hub: Hub, home: Path) -> Case:
        hub.world.file("a/model.safetensors", b"x" * 5000)
        hub.world.file("closed.bin", b"x", basic=("me", "secret"))
        netrc = home / "netrc"
        netrc.write_text(f"machine 127.0.0.1 login me password {PLANTED}\n")
        return Case(
            good=hub.files + "a/model.safetensors",
            sizes={"model.safetensors": 5000},
            missing=hub.files + "a/none.bin",
            refused=hub.files + "closed.bin",
            origin="files",
            path="/files/a/*",
            secret={"NETRC": str(netrc)},
            hears_nonsense=False,
        )


@pytest.mark.parametrize("fault", [IgnoreRange(), Chunked(), Gzip()], ids=lambda fault: type(fault).__name__)
def test_a_server_without_ranges_or_lengths_works(bench: SourceBench, hub: Hub, fault: object) -> None:
    hub.world.file("x.bin", b"x" * 4000)
    hub.faults.add("*", fault)  # type: ignore[arg-type]
    (artifact,) = bench.resolve(hub.files + "x.bin").artifacts
    # Values that a server doesn't send, or sends for another form of the file, are not invented.
    assert artifact.size == (4000 if isinstance(fault, IgnoreRange | Chunked) else None)


def test_the_request_is_for_the_first_byte_only(bench: SourceBench, hub: Hub) -> None:
    hub.world.file("x.bin", b"x" * 4_000_000)
    bench.resolve(hub.files + "x.bin")
    (entry,) = hub.log.requests()
    assert (entry.range, entry.sent) == ("bytes=0-0", 1)


def test_an_empty_file_has_a_size_too(bench: SourceBench, hub: Hub) -> None:
    hub.world.file("empty.txt", b"")
    assert bench.resolve(hub.files + "empty.txt").artifacts[0].size == 0


@pytest.mark.parametrize("status", [204, 205])
def test_a_status_without_a_body_is_no_empty_file(bench: SourceBench, hub: Hub, status: int) -> None:
    hub.faults.add("/files/*", Status(code=status), times=None)
    error = bench.refusal(f"{hub.files}config.json")
    assert (error.exit_code, error.code, error.permanent) == (69, "bad-response", True)


def test_a_size_that_contradicts_is_65(bench: SourceBench, hub: Hub) -> None:
    hub.world.file("x.bin", b"123")
    error = bench.refusal(hub.files + "x.bin", size=4)
    assert (error.exit_code, error.code) == (65, "size-mismatch")


def test_a_redirect_to_a_login_page_is_77(bench: SourceBench, hub: Hub) -> None:
    hub.world.file("x.bin", b"123")
    hub.faults.add("/files/x.bin", RedirectTo(url=hub.civitai + "/login?return=x"))
    error = bench.refusal(hub.files + "x.bin")
    assert (error.exit_code, error.code) == (77, "login-page")
    assert "return" not in str(error)


def test_a_page_in_place_of_a_file_is_65_with_the_form_to_write(bench: SourceBench, hub: Hub) -> None:
    hub.world.file("x.bin", b"123")
    hub.faults.add("/files/x.bin", HtmlPage())
    error = bench.refusal(hub.files + "x.bin")
    assert (error.exit_code, error.code) == (65, "not-a-model")
    assert "hf://NS/REPO/FILE" in str(error.hint)
    assert bench.waits == []


@pytest.mark.parametrize("name", ["page.html", "page"])
def test_a_page_in_place_of_weights_is_refused_whatever_its_address(bench: SourceBench, hub: Hub, name: str) -> None:
    hub.world.file(name, b"<!DOCTYPE html><html></html>", content_type="text/html")
    error = bench.refusal(hub.files + name, kind="checkpoint", filename="x.safetensors")
    assert (error.exit_code, error.code) == (65, "not-a-model")
    assert "hf://NS/REPO/FILE" in str(error.hint)


@pytest.mark.parametrize("pins", [{"size": 4}, {"digest": Digest.sha256(b"123")}, {"size": 3, "digest": OTHER}])
def test_a_page_in_place_of_a_pinned_file_is_named_before_its_size(
    bench: SourceBench, hub: Hub, pins: dict[str, Any]
) -> None:
    hub.world.file("x.bin", b"123")
    hub.faults.add("/files/x.bin", HtmlPage())
    error = bench.refusal(hub.files + "x.bin", **pins)
    assert (error.exit_code, error.code) == (65, "not-a-model")
    assert "--upgrade" not in str(error.hint)
    assert "network" in str(error.hint)


def test_an_html_file_may_be_requested(bench: SourceBench, hub: Hub) -> None:
    page = b"<html>hello</html>"
    hub.world.file("index.html", page)
    for name in ("index.html", "notes"):
        hub.world.file(name, page)
        fault = Status(code=200, body=page.decode(), content_type="text/html")
        hub.faults.add(f"/files/{name}", fault)
        pins = {} if name == "index.html" else {"size": len(page), "digest": Digest.sha256(page)}
        assert bench.resolve(hub.files + name, kind="file", **pins).artifacts[0].size == len(page)


def test_weights_served_with_an_html_type_are_accepted(bench: SourceBench, hub: Hub) -> None:
    hub.world.file("x.bin", b"123")
    hub.faults.add("/files/x.bin", Status(code=200, body="GGUF and more", content_type="text/html"))
    assert bench.resolve(hub.files + "x.bin").artifacts[0].size == 13


@each(
    ("fields", "name"),
    [
        ('attachment; filename="a.safetensors"', "a.safetensors"),
        ("attachment; filename=a.safetensors", "a.safetensors"),
        ("attachment; filename=my model.safetensors", "my model.safetensors"),
        ("attachment;filename = a.safetensors ; size=3", "a.safetensors"),
        ("attachment; filename=\"a.bin\"; filename*=UTF-8''b.safetensors", "b.safetensors"),
        ("attachment; filename*=UTF-8'en'%C3%A4.safetensors; filename=\"a.bin\"", "ä.safetensors"),
        ("attachment; filename*=iso-8859-1''%E4.bin", "ä.bin"),
        ("attachment; filename*=utf-7''b.bin; filename=a.bin", "a.bin"),
        ("attachment; filename*=UTF-8''%ff.bin; filename=a.bin", "a.bin"),
        ('attachment; filename="a.bin", attachment; filename="a.bin"', "a.bin"),
        ("attachment; filename=a.bin, attachment; filename=a.bin", "a.bin"),
        ('attachment; filename="a\\"b.bin"', "ab.bin"),
        ("attachment; filename=../../etc/passwd", "passwd"),
        ("attachment; filename*=UTF-8''..%2F..%2Fx.bin", "x.bin"),
        ("attachment; FILENAME=a.bin", "a.bin"),
        ('attachment; name="a; filename=b.bin"; filename=a.bin', "a.bin"),
        ('attachment; note="\\"; filename=b.bin"; filename="a.bin"', "a.bin"),
        ("attachment; filename=", None),
        ("attachment; xfilename=a.bin", None),
        ("attachment", None),
        ("attachment; filename=" + "a" * 5000, None),
    ],
)
def test_the_servers_name_is_read_as_rfc_6266_has_it(fields: str, name: str | None) -> None:
    assert disposition_name({"content-disposition": fields}) == name


@given(any_text(max_size=200))
def test_any_content_disposition_is_read_or_ignored(text: str) -> None:
    name = disposition_name({"content-disposition": text})
    assert name is None or ("/" not in name and name not in ("", ".", ".."))


def _safetensors() -> bytes:
    return (2).to_bytes(8, "little") + b"{}" + b"x" * 90


@pytest.mark.parametrize(
    ("address", "disposition", "name"),
    [
        ("download.php", 'attachment; filename="dream.safetensors"', "dream.safetensors"),
        ("sd-v1.5", "attachment; filename*=UTF-8''v1.5.safetensors; filename=x", "v1.5.safetensors"),
        ("dream.safetensors", 'attachment; filename="other.safetensors"', "dream.safetensors"),
        ("download.php", None, "download.safetensors"),
        ("sd-v1.5", None, "sd-v1.5.safetensors"),
        ("12345", None, "12345.safetensors"),
        ("get.php", "attachment; filename=sd-v1.5", "sd-v1.5.safetensors"),
    ],
)
def test_a_name_that_no_service_lists_gets_the_suffix_of_its_content(
    bench: SourceBench, hub: Hub, address: str, disposition: str | None, name: str
) -> None:
    hub.world.file(address, _safetensors(), disposition=disposition)
    assert bench.resolve(hub.files + address, kind="checkpoint").artifacts[0].path == name


def test_a_name_that_no_service_lists_is_refused_where_the_content_does_not_help(bench: SourceBench, hub: Hub) -> None:
    hub.world.file("download.php", b"no known format at all")
    error = bench.refusal(hub.files + "download.php", kind="checkpoint")
    assert (error.exit_code, "filename:" in str(error.hint)) == (65, True)
    named = bench.resolve(hub.files + "download.php", kind="checkpoint", filename="x.safetensors")
    assert named.artifacts[0].path == "x.safetensors"
    assert bench.resolve(hub.files + "download.php", kind="file").artifacts[0].path == "download.php"


def test_a_pinned_file_without_a_listed_name_is_looked_at(bench: SourceBench, hub: Hub) -> None:
    hub.world.file("download.php", _safetensors())
    digest = Digest.sha256(_safetensors())
    uri = parse_uri(hub.files + "download.php")
    for kind, pinned in (("checkpoint", False), ("file", True)):
        wanted = SourceRequest(uri=uri, kind=kind, digest=digest, size=100)
        assert (known(wanted, bench.settings, lambda _digest: None) is not None) is pinned


def test_a_credential_in_the_query_is_warned_of_once_with_what_to_use_instead(bench: SourceBench, hub: Hub) -> None:
    hub.world.file("x.bin", b"123")
    for _ in range(2):
        bench.resolve(hub.files + "x.bin?token=" + PLANTED)
    (warning,) = bench.events
    assert isinstance(warning, Notice)
    assert (warning.level, "(token)" in warning.message, "netrc" in str(warning.hint)) == ("warning", True, True)
    assert PLANTED not in str(warning)
    assert hub.log.requests("/files/x.bin")[0].target.endswith(PLANTED)


@pytest.mark.parametrize("status", [401, 403])
def test_no_error_claims_a_credential_that_was_not_sent(
    make_desk: Callable[..., SourceBench], hub: Hub, home: Path, status: int
) -> None:
    hub.faults.add("/files/x.bin", Status(code=status), times=None)
    without = make_desk().refusal(hub.files + "x.bin")
    assert without.exit_code == 77
    assert not any(word in f"{without} {without.hint}" for word in ("reject", "was sent for"))
    (home / "n").write_text("machine 127.0.0.1 login me password word\n")
    with_login = make_desk(NETRC=str(home / "n")).refusal(hub.files + "x.bin")
    assert any(word in f"{with_login} {with_login.hint}" for word in ("reject", "was sent for"))


def test_a_file_whose_address_has_no_name_takes_the_servers(bench: SourceBench, hub: Hub) -> None:
    hub.world.file("get/", b"123", disposition='attachment; filename="../../evil model.bin"')
    assert bench.resolve(hub.files + "get/").artifacts[0].path == "evil model.bin"


def test_an_address_that_ends_in_a_number_takes_the_servers_name_where_it_has_one(bench: SourceBench, hub: Hub) -> None:
    hub.world.file("models/123", b"1", disposition='attachment; filename="dream.safetensors"')
    hub.world.file("models/124", b"1")
    assert bench.resolve(hub.files + "models/123").artifacts[0].path == "dream.safetensors"
    assert bench.resolve(hub.files + "models/124").artifacts[0].path == "124"


def test_query_strings_are_in_no_message(bench: SourceBench, hub: Hub) -> None:
    hub.world.file("x.bin", b"123")
    for error in (
        bench.refusal(hub.files + "none.bin?token=abc"),
        bench.refusal(hub.files + "x.bin?token=abc", size=4),
        bench.refusal(hub.files + "?token=abc"),
    ):
        assert "abc" not in error.message + str(error.hint)


def test_without_any_name_the_manifest_must_give_one(bench: SourceBench, hub: Hub) -> None:
    hub.world.file("get/", b"123")
    error = bench.refusal(hub.files + "get/")
    assert error.exit_code == 69
    assert "filename" in str(error.hint)
    assert bench.resolve(hub.files + "get/", filename="sub/mine.bin").artifacts[0].path == "mine.bin"


@each(
    ("value", "name"),
    [
        ('attachment; filename="a.bin"', "a.bin"),
        ("attachment; filename=a.bin", "a.bin"),
        ("attachment; filename*=UTF-8''a%20%C3%A4.bin", "a ä.bin"),
        ('attachment; filename="/etc/passwd"', "passwd"),
        ('attachment; filename="..\\\\..\\\\x.bin"', "x.bin"),
        ('attachment; filename=".."', None),
        ('attachment; filename=""', None),
        ("attachment", None),
        ("", None),
        ("attachment; filename*=nonsense''%ff", "_"),
        ('attachment; filename="' + "a" * 5000 + '"', None),
    ],
)
def test_a_servers_filename_is_made_safe(value: str, name: str | None) -> None:
    found = disposition_name(Headers({"Content-Disposition": value}))
    assert found == name or (name == "_" and (found is None or "/" not in found))


def test_an_address_with_a_digest_a_size_and_a_name_needs_no_request() -> None:
    digest = Digest("sha256", "1" * 64)
    wanted = SourceRequest(uri=parse_uri("https://models.example/a/x.bin?download=true"), digest=digest, size=3)
    found = known(wanted, Settings(), lambda _digest: None)
    assert found is not None
    assert found.artifacts[0].path == "x.bin"
    assert known(SourceRequest(uri=wanted.uri, digest=digest), Settings(), lambda _digest: None) is None


def test_netrc_provides_the_login_of_a_protected_file(
    make_desk: Callable[..., SourceBench], hub: Hub, home: Path
) -> None:
    hub.world.file("closed.bin", b"1", basic=("me", "word"))
    (home / "netrc").write_text("machine 127.0.0.1 login me password word\n")
    assert make_desk(NETRC=str(home / "netrc")).resolve(hub.files + "closed.bin").artifacts[0].size == 1
    (home / "netrc").write_text("machine elsewhere login me password word\n")
    assert make_desk(NETRC=str(home / "netrc")).refusal(hub.files + "closed.bin").exit_code == 77


def test_a_403_of_a_server_is_77(bench: SourceBench, hub: Hub) -> None:
    hub.world.file("x.bin", b"1")
    hub.faults.add("*", Status(code=403))
    assert bench.refusal(hub.files + "x.bin").code == "forbidden"


def test_a_login_that_is_refused_is_not_taken_for_one_that_is_missing(
    make_desk: Callable[..., SourceBench], hub: Hub, home: Path
) -> None:
    hub.world.file("closed.bin", b"x", basic=("me", "right"))
    assert make_desk().refusal(hub.files + "closed.bin").code == "missing-or-private"
    (home / "netrc").write_text(f"machine 127.0.0.1 login me password {PLANTED}\n")
    error = make_desk(NETRC=str(home / "netrc")).refusal(hub.files + "closed.bin")
    assert (error.exit_code, error.code) == (77, "unauthorized")
    assert "netrc" in str(error.hint)
    assert PLANTED not in str(error)
