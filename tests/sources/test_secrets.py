"""A planted secret must not appear in any output, for every source, failure and kind of credential."""

from __future__ import annotations

import base64
import json
import logging
import traceback
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.demo.body import as_body
from modelfetch.demo.world import CivitaiFile
from modelfetch.errors import ModelfetchError
from tests.cases import first
from tests.faults import EndlessHeaders, HtmlPage, NotHttp, RateLimited, RedirectTo, Refuse, Status
from tests.sources.test_oci import ONE, publish

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from modelfetch.demo.faults import Fault
    from modelfetch.demo.hub import Hub
    from tests.sources.bench import SourceBench

PLANTED = "planted-Secret-0123456789abcdef"
FORMS = (PLANTED, base64.b64encode(f"me:{PLANTED}".encode()).decode(), base64.b64encode(PLANTED.encode()).decode()[:-4])

FAULTS: dict[str, Fault] = {
    "none": Status(code=200),  # means "no failure": it is never added
    **{str(code): Status(code=code) for code in (400, 401, 403, 404, 410, 418, 429, 500, 503)},
    "gated": Status(code=403, headers={"X-Error-Code": "GatedRepo", "X-Error-Message": f"not for {PLANTED}"}),
    "refused with an echo": Status(code=403, headers={"X-Error-Message": PLANTED}, body=f"Bearer {PLANTED}"),
    "invalid": Status(code=401, headers={"X-Error-Message": f"Invalid credentials {PLANTED}"}),
    "challenge": Status(code=401, headers={"WWW-Authenticate": f'Bearer realm="http://a.example/{PLANTED}"'}),
    "odd challenge": Status(code=401, headers={"WWW-Authenticate": f"{PLANTED} {PLANTED}={PLANTED}"}),
    "limited": RateLimited(wait=500),
    "page": Status(code=200, body=f"<html>{PLANTED}</html>", content_type="text/html"),
    "json": Status(code=200, body=f'{{"error": "{PLANTED}", "sha": "{PLANTED}"}}', content_type="application/json"),
    "html file": HtmlPage(),
    "elsewhere": RedirectTo(url=f"https://elsewhere.invalid/x?token={PLANTED}"),
    "in the clear": RedirectTo(url=f"http://elsewhere.invalid/x?token={PLANTED}#{PLANTED}"),
    "with a user": RedirectTo(url=f"https://me:{PLANTED}@elsewhere.invalid/"),
    "nowhere": RedirectTo(url=f"ftp://{PLANTED}"),
    "no http": NotHttp(),
    "headers": EndlessHeaders(),
    "cut": Refuse(),
}


@pytest.fixture
def environ(hub: Hub, home: Path) -> dict[str, str]:
    (home / "netrc").write_text(f"machine 127.0.0.1 login me password {PLANTED}\n")
    (home / ".docker").mkdir()
    auth = base64.b64encode(f"me:{PLANTED}".encode()).decode()
    config = {"auths": {hub.ollama.removeprefix("http://"): {"auth": auth}}}
    (home / ".docker" / "config.json").write_text(json.dumps(config))
    return {"HF_TOKEN": PLANTED, "CIVITAI_API_TOKEN": PLANTED, "NETRC": str(home / "netrc")}


def _uris(hub: Hub) -> dict[str, str]:
    world = hub.world
    world.hf_repo("org/repo", {"model.safetensors": b"x"}, gated="auto")
    world.token("hf", PLANTED, gated=["org/repo"])
    world.ollama_model("tiny:1b", [("model", b"GGUF")])
    world.civitai_version(1, [CivitaiFile(id=1, name="a.safetensors", body=as_body(b"x"))], login="json")
    world.token("civitai", PLANTED)
    world.file("a.bin", b"x", basic=("me", PLANTED))
    publish(hub, ONE)
    return {
        "hf": "hf://org/repo/model.safetensors",
        "ollama": "ollama://tiny:1b",
        "civitai": "civitai://1",
        "https": hub.files + "a.bin",
        "oci": "oci://" + hub.ollama.removeprefix("http://") + "/fleet/tiny:v1",
    }


@pytest.mark.parametrize("source", first(2, ["hf", "ollama", "https", "civitai", "oci"]))
def test_a_planted_secret_appears_in_no_output(
    source: str,
    environ: dict[str, str],
    make_desk: Callable[..., SourceBench],
    hub: Hub,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    uri = _uris(hub)[source]
    caplog.set_level(logging.DEBUG)
    hub.world.ollama_login = ("me", PLANTED)
    outcomes = set()
    for name, fault in FAULTS.items():
        hub.faults.clear()
        if name != "none":
            hub.faults.add("*", fault, times=None)
        bench = make_desk(retries=2, **environ)
        outcome, text = _collect_output(bench, uri)
        outcomes.add(outcome)
        assert not [form for form in FORMS if form in text], f"{source}, {name}: {_around(text)}"
    written = capfd.readouterr()
    # The hub's own text is not part of it, so the log is searched for the data sent to the hub.
    logged = "\n".join(r.getMessage() for r in caplog.records if "Location" not in r.getMessage())
    for text in (written.out, written.err, logged):
        assert f"Bearer {PLANTED}" not in text
        assert FORMS[1] not in text
    # The secret was sent where it belongs, and the requests failed in all these ways.
    assert any(any(form in str(entry.authorization) for form in FORMS) for entry in hub.log.requests())
    assert {0, 66, 69, 75, 77} <= outcomes


def _collect_output(bench: SourceBench, uri: str) -> tuple[int, str]:
    """Return the exit code, and every text that may reach a user, a log or a receipt."""
    text = repr(bench) + repr(bench.sources) + repr(bench.settings)
    try:
        found = bench.resolve(uri)
    except ModelfetchError as error:
        text += "".join(traceback.format_exception(error)) + json.dumps(error.as_dict()) + _chain(error)
        code = error.exit_code
    else:
        text += repr(found) + json.dumps(found.as_dict())
        code = 0
    return code, text + repr(bench.events) + repr(bench.waits)


def _chain(error: BaseException | None) -> str:
    text = ""
    while error is not None:
        text += f"{error!r}{error}{error.args}"
        text += repr({name: value for name, value in vars(error).items() if not name.startswith("_")})
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return text


def _around(text: str) -> str:
    at: Any = min(text.find(form) for form in FORMS if form in text)
    return text[max(0, at - 200) : at + 60]
