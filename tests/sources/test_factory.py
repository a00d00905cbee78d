"""Links of the configured endpoints mean the same as the URIs of their hubs."""

from __future__ import annotations

from modelfetch.config.settings import Settings
from modelfetch.manifest.uri import CivitaiUri, HfUri, HttpUri, parse_uri
from modelfetch.sources.factory import canonical_uri
from tests.cases import each

SETTINGS = Settings(hf_endpoint="https://hub.example/hf", civitai_endpoint="https://hub.example/civ")


@each(
    "link",
    [
        "https://hub.example/civ/api/download/models/5?type=Model&token=SECRET",
        "https://HUB.example/civ/api/download/models/5?type=Model&token=SECRET",
        "HTTPS://hub.example:443/civ/api/download/models/5?type=Model&token=SECRET#x",
        "https://hub.example/civ/models/9/name?modelVersionId=5&type=Model&token=SECRET",
    ],
)
def test_a_link_of_the_endpoint_is_a_version_whose_token_is_not_part_of_it(link: str) -> None:
    uri = canonical_uri(parse_uri(link), SETTINGS)
    assert isinstance(uri, CivitaiUri)
    assert (uri.version, str(uri), uri.token) == (5, "civitai://5?type=Model", "SECRET")


@each("host", ["https://hub.example", "https://Hub.Example", "https://hub.example:443", "HTTPS://hub.example"])
def test_a_page_of_the_endpoint_is_a_file_of_the_hub(host: str) -> None:
    link = parse_uri(f"{host}/hf/ns/repo/blob/main/x.bin")
    kept, uri = (canonical_uri(link, SETTINGS, keep_text=keep) for keep in (True, False))
    assert isinstance(uri, HfUri)
    assert (kept.text, str(uri)) == (link.text, "hf://ns/repo/x.bin")


@each(
    "link",
    [
        "https://hub.example/other/api/download/models/5",
        "https://hub.example/civ-2/api/download/models/5",
        "https://hub.example/civ/../api/download/models/5",
        "https://hub.example:8443/civ/api/download/models/5",
        "https://hub.example/civ/models/9",
    ],
)
def test_other_addresses_stay_web_addresses(link: str) -> None:
    assert isinstance(canonical_uri(parse_uri(link), SETTINGS), HttpUri)
