from __future__ import annotations

import contextlib
import io
import time
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from modelfetch.errors import ManifestError
from modelfetch.manifest.kinds import KINDS, REPO_KINDS, consumers_of
from modelfetch.manifest.load import load_bytes, load_manifest
from modelfetch.manifest.schema import json_schema
from modelfetch.manifest.yaml_nodes import Mapping, Node, Sequence, parse
from tests.examples import any_text, examples
from tests.manifest.helpers import COMMIT, DIGEST, VALIDATOR
from tests.manifest.test_load import CONTRACT

if TYPE_CHECKING:
    from modelfetch.errors import Problem
    from modelfetch.manifest.model import Manifest

QUICK = settings(max_examples=examples(60), suppress_health_check=[HealthCheck.too_slow])


def plain(node: Node) -> Any:
    """A node as a document for a JSON Schema."""
    if isinstance(node, Mapping):
        return {entry.key: plain(entry.value) for entry in node.entries}
    return [plain(item) for item in node.items] if isinstance(node, Sequence) else node.value


def load_any(data: bytes) -> Manifest | None:
    """Load bytes: a manifest that the schema accepts too, or problems with positions, in little time."""
    began = time.process_time()
    manifest: Manifest | None = None
    problems: tuple[Problem, ...] = ()
    try:
        manifest = load_bytes(data, file="f", find_tier=lambda name, **_: None)
    except ManifestError as error:
        problems = error.problems
    assert time.process_time() - began < 2
    if manifest is None:
        assert problems
        assert all(p.file == "f" and p.line >= 1 and p.column >= 1 and "\n" not in p.message for p in problems)
        return None
    root, nothing = parse(data, "f")
    assert root is not None
    assert nothing == ()
    assert list(VALIDATOR.iter_errors(plain(root))) == []
    return manifest


@QUICK
@given(st.binary(max_size=200) | any_text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_are_a_manifest_or_problems(data: bytes) -> None:
    load_any(data)


YAMLISH = st.text("ab1:-?[]{}&*!|>'\"%@`#,\n \t.~<=", max_size=80)


@QUICK
@given(YAMLISH)
def test_any_punctuation_is_a_manifest_or_problems(text: str) -> None:
    load_any(text.encode())


@QUICK
@given(
    st.integers(0, len(CONTRACT)),
    st.integers(0, 12),
    YAMLISH | st.sampled_from(["../", "\0", "&a ", "*a", "!!str ", "~", "[]", "{}"]),
)
def test_a_damaged_manifest_is_a_manifest_or_problems(at: int, cut: int, junk: str) -> None:
    load_any((CONTRACT[:at] + junk + CONTRACT[at + cut :]).encode())


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**70) | st.floats() | any_text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = sorted(
    {*json_schema()["properties"], *json_schema()["properties"]["models"]["items"]["properties"], "x-y", "zz"}
)


@QUICK
@given(
    st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=5),
    st.lists(st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=6), max_size=2),
)
def test_any_values_of_known_keys_are_a_manifest_or_problems(top: dict[str, Any], models: list[dict[str, Any]]) -> None:
    load_any(dump({"version": 1, "models": models} | top))


NAMES = st.text("abcXYZ019._-", min_size=1, max_size=12).map(lambda text: f"n{text}")
SIZES = st.integers(1, 2**63 - 1) | st.sampled_from(["6g", "7.5GiB", "50 MB", "12"])


@st.composite
def model(draw: st.DrawFn, index: int) -> dict[str, Any]:
    """A valid model without path conflicts."""
    name = f"{draw(NAMES)}-{index}"
    found: dict[str, Any] = {"name": name, "optional": draw(st.booleans())}
    if draw(st.integers(0, 4)) == 0:
        return found | {"source": f"ollama://ns{index}/m:{draw(NAMES)}", "for": ["ollama"], "digest": DIGEST}
    kind = draw(st.sampled_from(KINDS))
    found |= {"kind": kind, "for": draw(st.lists(st.sampled_from(consumers_of(kind)), min_size=1, unique=True))}
    if kind in REPO_KINDS:
        files = draw(st.lists(NAMES, max_size=3, unique_by=str.casefold))
        pins = [{"path": f"{i}/{path}", "size": draw(SIZES), "digest": DIGEST} for i, path in enumerate(files)]
        found |= {"source": f"hf://ns/repo{index}@{COMMIT}", "license": draw(NAMES)}
        found |= {"task": "clip"} if kind == "immich-model" else {}
        return found | ({"files": pins} if pins else {"include": ["*.json"]})
    source = draw(st.sampled_from(["hf://ns/repo@main/{}", "https://h.example/{}?x=1", "file:///d/{}"]))
    found |= {"source": source.format(f"{name}.safetensors"), "size": draw(SIZES), "mirrors": ["civitai://1?fileId=2"]}
    return found | ({"path": f"some/{name}"} if kind == "file" else {})


@st.composite
def document(draw: st.DrawFn) -> dict[str, Any]:
    """A valid manifest."""
    services = draw(
        st.dictionaries(
            NAMES.map(lambda n: n.lower().replace(".", "-")),
            st.fixed_dictionaries({"vram": st.integers(0, 2**30), "context": st.integers(1, 9)}),
            max_size=3,
        )
    )
    models = [draw(model(i)) for i in range(draw(st.integers(0, 5)))]
    return {
        "version": 1,
        "tier": draw(NAMES),
        "vram": "8GiB",
        "services": services,
        "models": models,
        "x-y": draw(NAMES),
    }


def dump(value: Any) -> bytes:
    out = io.BytesIO()
    yaml = YAML()
    yaml.allow_unicode = True
    yaml.dump(value, out)
    return out.getvalue()


@QUICK
@given(document())
def test_a_written_manifest_is_read_unchanged(wanted: dict[str, Any]) -> None:
    manifest = load_any(dump(wanted))
    assert manifest is not None
    assert manifest.tier == wanted["tier"]
    assert {s.name: (s.vram, s.context) for s in manifest.services} == {
        n: (s["vram"], s["context"]) for n, s in wanted["services"].items()
    }
    for read, written in zip(manifest.models, wanted["models"], strict=True):
        assert (read.name, str(read.source), list(read.consumers)) == (
            written["name"],
            written["source"],
            written["for"],
        )
        assert (read.kind, read.path, read.license) == (
            written.get("kind"),
            written.get("path"),
            written.get("license"),
        )
        assert [str(uri) for uri in read.mirrors] == written.get("mirrors", [])
        assert [spec.path for spec in read.files or ()] == [spec["path"] for spec in written.get("files", [])]
        assert read.optional == written["optional"]
        if isinstance(size := written.get("size"), int):
            assert read.size == size


@QUICK
@given(any_text(max_size=60))
def test_any_str_is_a_manifest_or_problems(text: str) -> None:
    with contextlib.suppress(ManifestError):
        load_manifest(text)
