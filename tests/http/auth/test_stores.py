"""Any content of a credential file is read or a typed error, which does not show it."""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from modelfetch.config.secret import CredentialFileError
from modelfetch.http.auth.stores import DockerConfig, Netrc
from tests.examples import examples

HOST = "registry.example"
FEW = settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXTS = st.text(alphabet=st.characters(), max_size=8)  # with lone surrogates, as JSON's escapes make them
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | TEXTS | st.sampled_from(["dTpw", "é", "a:b", "<token>"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["auth", "username", "password", "identitytoken"])


def login_of_docker(path: Path, content: str) -> None:
    path.write_text(content)
    with contextlib.suppress(CredentialFileError):
        login = DockerConfig(path).find(HOST)
        assert login is None or login.basic.startswith("Basic ")


@FEW
@example(entry={"auth": "é"})
@example(entry={"username": "me", "password": "\ud800"})
@example(entry={"identitytoken": "\udfff"})
@given(entry=st.dictionaries(KEYS, VALUES, max_size=4) | VALUES)
def test_any_entry_of_dockers_config_gives_a_login_that_can_be_sent_or_none(tmp_path: Path, entry: Any) -> None:
    login_of_docker(tmp_path / "config.json", json.dumps({"auths": {HOST: entry}}))


@FEW
@given(document=st.dictionaries(st.sampled_from(["auths", "credHelpers", "HOST"]), VALUES, max_size=3) | VALUES)
def test_any_config_of_docker_is_read_or_named(tmp_path: Path, document: Any) -> None:
    login_of_docker(tmp_path / "config.json", json.dumps(document).replace("HOST", HOST))


@FEW
@example(words=["machine", HOST, "login", "\0", "password", "é"])
@given(words=st.lists(TEXTS | st.sampled_from(["machine", HOST, "login", "password", "macdef", "default", "\n", '"'])))
def test_any_netrc_is_read_or_named(tmp_path: Path, words: list[str]) -> None:
    path = tmp_path / "netrc"
    path.write_bytes(" ".join(words).encode("utf-8", "surrogatepass"))
    with contextlib.suppress(CredentialFileError):
        login = Netrc(path).find(HOST)
        assert login is None or login.basic.startswith("Basic ")


def test_a_huge_netrc_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "netrc"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(CredentialFileError, match="expected at most"):
        Netrc(path).find(HOST)


@pytest.mark.parametrize("kind", ["folder", "pipe"])
@pytest.mark.parametrize("store", [Netrc, DockerConfig])
def test_a_folder_or_pipe_in_the_place_of_a_store_is_named(tmp_path: Path, store: type[Netrc], kind: str) -> None:
    path = tmp_path / "store"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(CredentialFileError, match=re.escape(f"{path} can't be read: ")):
        store(path).find(HOST)
    assert store(Path(os.devnull)).find(HOST) is None
