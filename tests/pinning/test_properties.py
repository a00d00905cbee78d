"""Pinning changes only the pins of a manifest, whatever its layout."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from modelfetch.config.settings import Settings
from modelfetch.core.digest import Digest
from modelfetch.errors import SettingError
from modelfetch.manifest.core_schema import resolve
from modelfetch.manifest.load import load_bytes
from modelfetch.manifest.model import FileSpec, Manifest, Model, Position
from modelfetch.manifest.uri import HfUri, OllamaUri, parse_uri
from modelfetch.manifest.yaml_nodes import Mapping, Node, Sequence, parse
from modelfetch.pinning.document import Document, with_pins
from modelfetch.pinning.entry import at_commit
from tests.examples import examples

QUICK = settings(
    max_examples=examples(35),
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow],
)
FILE = Path("tier.yaml")

COMMENTS = st.sampled_from(
    ["# a word", "# source: hf://a/b", "#'", '# "half', "# - {size: 1}", "#\tTab", "# é ☃ 💾", "# [", "# # twice", "#"]
)
QUOTES = st.sampled_from(["", "'", '"'])
COMMIT = st.text("0123456789abcdef", min_size=40, max_size=40)
DIGEST = st.text("0123456789abcdef", min_size=64, max_size=64).map(lambda digits: Digest("sha256", digits))
SIZE = st.integers(1, 2**63 - 1)
PATHS = st.sampled_from(
    ["config.json", "1.0", "sub/model.safetensors", "a b.txt", "c, d [e].txt", "true", "#f.txt", "it's.txt", "- g", "é"]
)


@dataclass
class Text:
    """A manifest in the making: its lines, and which of them hold what pinning may touch."""

    lines: list[str] = field(default_factory=list)
    touched: list[bool] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)

    def add(self, line: str, *, touched: bool = False) -> None:
        self.lines.append(line)
        self.touched.append(touched)


def quoted(text: str, quote: str, *, flow: bool) -> str:
    unclear = flow or text.startswith(("-", "#")) or " #" in text or resolve(text) != text
    if quote == "'" or (not quote and unclear):
        return "'" + text.replace("'", "''") + "'"
    return json.dumps(text, ensure_ascii=False) if quote else text


def comment(draw: st.DrawFn, text: Text) -> str:
    """A unique comment."""
    text.comments.append(f"{draw(COMMENTS)} ({len(text.comments)})")
    return text.comments[-1]


def maybe_comment(draw: st.DrawFn, text: Text) -> str:
    return draw(st.sampled_from([" ", "   "])) + comment(draw, text) if draw(st.booleans()) else ""


def between(draw: st.DrawFn, text: Text, indent: int) -> None:
    """Blank lines and comment lines."""
    for _ in range(draw(st.integers(0, 2))):
        text.add(" " * indent + comment(draw, text) if draw(st.booleans()) else "")


@st.composite
def entry(draw: st.DrawFn, index: int) -> list[tuple[str, Any]]:
    """The keys of a model, in some order; lists are tuples of texts or of mappings."""
    form = draw(st.sampled_from(["file", "ollama", "snapshot", "include", "files"]))
    keys: list[tuple[str, Any]] = [("name", f"m{index}"), ("license", draw(st.sampled_from(["mit", "x: y", "# no"])))]
    keys.append(("x-note", draw(st.sampled_from(["kept", "hf://a/b"]))))
    if form == "ollama":
        keys += [("source", f"ollama://ns/m{index}"), ("for", ("ollama",))]
        return draw(st.permutations(keys))
    revision = draw(st.sampled_from(["", "@main", "@refs/pr/7", "@a%2Fb", "@v1.0"]))
    if form == "file":
        keys += [
            ("kind", "vae"),
            ("source", f"hf://ns/r{index}{revision}/d/f{index}.safetensors"),
            ("for", ("comfyui",)),
        ]
        keys += draw(st.sampled_from([[], [("size", "6g")], [("digest", "sha256:" + "0" * 64)]]))
        return draw(st.permutations(keys))
    keys += [("kind", "snapshot"), ("source", f"hf://ns/r{index}{revision}"), ("for", ("whisper", "diffrhythm"))]
    if form == "include":
        keys.append(
            ("include", tuple(draw(st.lists(st.sampled_from(["*.json", "a*", "b/"]), min_size=1, unique=True))))
        )
    if form == "files":
        paths = draw(st.lists(PATHS, min_size=1, max_size=3, unique=True))
        keys.append(("files", tuple(dict(draw(file_keys(path))) for path in paths)))
    return draw(st.permutations(keys))


@st.composite
def file_keys(draw: st.DrawFn, path: str) -> list[tuple[str, Any]]:
    more = draw(st.sampled_from([[], [("size", "7")], [("digest", "blake3:" + "1" * 64)]]))
    return draw(st.permutations([("path", path), *more]))


def flow(draw: st.DrawFn, value: Any) -> str:
    """A value within brackets or braces, on one line."""
    space = draw(st.sampled_from(["", " "]))
    if isinstance(value, dict):
        parts = [f"{key}: {flow(draw, one)}" for key, one in value.items()]
        return "{" + space + ", ".join(parts) + space + "}"
    if isinstance(value, tuple):
        return "[" + space + ("," + (space or " ")).join(flow(draw, one) for one in value) + space + "]"
    return value if value.isdigit() else quoted(value, draw(QUOTES), flow=True)


def block(draw: st.DrawFn, text: Text, keys: list[tuple[str, Any]], first: str, indent: int) -> None:
    """A mapping in lines; ``first`` is the text before its first key."""
    lead = first
    for key, value in keys:
        touched = key in ("source", "include", "size", "digest", "files", "path")
        if isinstance(value, tuple) and draw(st.booleans()):
            text.add(f"{lead}{key}:{maybe_comment(draw, text)}", touched=touched)
            step = draw(st.sampled_from([0, 2, 3]))
            for item in value:
                dash = " " * (indent + step) + "- "
                if isinstance(item, dict) and draw(st.booleans()):
                    block(draw, text, list(item.items()), dash, indent + step + 2)
                else:
                    shown = flow(draw, item) if isinstance(item, dict) else quoted(item, "'", flow=False)
                    text.add(dash + shown + maybe_comment(draw, text), touched=touched)
                if key != "include":
                    between(draw, text, indent + step)
        else:
            shown = flow(draw, value) if isinstance(value, tuple) else quoted_scalar(draw, value)
            text.add(f"{lead}{key}: {shown}{maybe_comment(draw, text)}", touched=touched)
        lead = " " * indent
        between(draw, text, draw(st.sampled_from([0, indent])))


def quoted_scalar(draw: st.DrawFn, value: str) -> str:
    if value.isdigit() or ": " in value:
        return value if value.isdigit() else json.dumps(value)
    return quoted(value, draw(QUOTES), flow=False)


@st.composite
def manifests(draw: st.DrawFn) -> Text:
    """The text of a valid manifest, whatever it looks like."""
    text = Text()
    between(draw, text, 0)
    text.add("version: 1" + maybe_comment(draw, text))
    text.add("x-more: {a: [1,  2],   b: 'c'}" + maybe_comment(draw, text))
    text.add("models:" + maybe_comment(draw, text))
    dash, gap = draw(st.sampled_from([0, 2, 4])), draw(st.sampled_from([1, 3]))
    for index in range(draw(st.integers(1, 4))):
        between(draw, text, dash)
        keys = draw(entry(index))
        lead = " " * dash + "-" + " " * gap
        if draw(st.integers(0, 3)):
            block(draw, text, keys, lead, dash + 1 + gap)
        else:
            text.add(lead + flow(draw, dict(keys)) + maybe_comment(draw, text), touched=True)
    between(draw, text, 0)
    return text


@st.composite
def pinned_models(draw: st.DrawFn, manifest: Manifest) -> dict[str, Model]:
    """Possible answers of the sources for a manifest's models; some entries are left as they are."""
    models: dict[str, Model] = {}
    for model in manifest.models:
        if draw(st.integers(0, 4)) == 0:
            continue
        if isinstance(model.source, OllamaUri):
            models[model.name] = replace(model, digest=draw(DIGEST))
            continue
        assert isinstance(model.source, HfUri)
        source = at_commit(model.source, model.source, draw(COMMIT))
        if model.kind != "snapshot":
            models[model.name] = replace(model, source=source, size=draw(SIZE), digest=draw(DIGEST))
            continue
        known = [spec.path for spec in model.files or ()]
        paths = known or draw(st.lists(PATHS, min_size=1, max_size=4, unique=True))
        files = tuple(FileSpec(path=path, size=draw(SIZE), digest=draw(DIGEST)) for path in paths)
        models[model.name] = replace(model, source=source, files=files, include=None)
    return models


def plain(node: Node) -> Any:
    if isinstance(node, Mapping):
        return {entry.key: plain(entry.value) for entry in node.entries}
    return [plain(item) for item in node.items] if isinstance(node, Sequence) else node.value


def document_of(data: bytes) -> Any:
    root, problems = parse(data, "f")
    assert root is not None
    assert problems == ()
    return plain(root)


def with_expected(document: Any, models: dict[str, Model]) -> Any:
    """The document that pinning should leave, made from the old one key by key."""
    for raw in document["models"]:
        model = models.get(raw["name"])
        if model is None:
            continue
        raw["source"] = model.source.text
        if model.kind == "snapshot":
            raw.pop("include", None)
            raw["files"] = [{"path": s.path, "size": s.size, "digest": str(s.digest)} for s in model.files or ()]
        else:
            pins = {"size": model.size, "digest": str(model.digest)}
            raw.update({key: value for key, value in pins.items() if value is not None})
    return document


def pin(data: bytes, models: dict[str, Model]) -> bytes:
    manifest = load_bytes(data, file=str(FILE))
    return with_pins(Document(path=FILE, data=data, manifest=manifest), models, Settings())


@QUICK
@given(st.data(), manifests(), st.sampled_from(["\n", "\r\n"]), st.booleans(), st.booleans())
def test_pinning_changes_the_pins_and_nothing_else(
    data: st.DataObject, text: Text, newline: str, ends: bool, mark: bool
) -> None:
    old = (("\ufeff" if mark else "") + newline.join(text.lines) + (newline if ends else "")).encode()
    models = data.draw(pinned_models(load_bytes(old, file=str(FILE))))
    new = pin(old, models)

    assert document_of(new) == with_expected(document_of(old), models)
    if newline == "\r\n" and len(text.lines) > 1:
        assert b"\n" not in new.replace(b"\r\n", b"")
    assert new.startswith(b"\xef\xbb\xbf") == mark
    lines = iter(new.decode().removeprefix("\ufeff").split(newline))
    for line, touched in zip(text.lines, text.touched, strict=True):
        if not touched:
            assert line in lines, f"{line!r} is gone or moved"  # consumes the iterator: the order counts
    assert [one for one in text.comments if new.decode().count(one) != 1] == []
    assert pin(new, {}) == new
    event("changed" if new != old else "as it was")


JUNK = st.text("ab:-?[]{}&*!|>'\"%@`#, \n\t\u2028\x85", max_size=4) | st.sampled_from(
    ["&a ", "*a", "? ", ">-\n", "!!str "]
)


@QUICK
@given(st.data(), manifests(), st.integers(0, 2000), st.integers(0, 3), JUNK)
def test_a_damaged_manifest_is_pinned_or_refused(data: st.DataObject, text: Text, at: int, cut: int, junk: str) -> None:
    whole = "\n".join(text.lines)
    old = (whole[:at] + junk + whole[at + cut :]).encode()
    try:
        manifest = load_bytes(old, file=str(FILE))
        models = data.draw(pinned_models(manifest))
        found = load_bytes(pin(old, models), file=str(FILE))
    except SettingError:
        return
    expected = [models.get(model.name, model) for model in manifest.models]
    somewhere = Position(file="", line=0, column=0)
    assert [replace(m, position=somewhere) for m in found.models] == [replace(m, position=somewhere) for m in expected]


@QUICK
@given(st.data(), st.sampled_from([None, 1, 2, 4]), st.booleans())
def test_a_json_manifest_is_valid_json_after_pinning(data: st.DataObject, indent: int | None, ends: bool) -> None:
    entries = [dict(data.draw(entry(index))) for index in range(data.draw(st.integers(1, 3)))]
    for raw in entries:
        for spec in raw.get("files", ()):
            spec.update({"size": int(spec["size"])} if "size" in spec else {})
    old = json.dumps({"version": 1, "models": entries, "x-y": [1]}, indent=indent) + ("\n" if ends else "")
    models = data.draw(pinned_models(load_bytes(old.encode(), file=str(FILE))))
    new = pin(old.encode(), models)
    assert json.loads(new) == with_expected(json.loads(old), models)
    assert new.endswith(b"\n") == ends
    if indent is not None and models:
        assert max(map(len, new.decode().splitlines())) < 220


@QUICK
@given(
    st.sampled_from(["", "@main", "@refs/pr/12", "@a%2Fb", "@v1.0", "@" + "0" * 40]),
    st.sampled_from(["", "/", "/a", "/refs/pr/1", "/a/b@c", "/%C3%A9", "/x+y%20z"]),
    COMMIT,
)
def test_only_the_revision_of_a_uri_changes(revision: str, path: str, commit: str) -> None:
    uri = parse_uri(f"hf://ns/repo{revision}{path}")
    assert isinstance(uri, HfUri)
    moved = at_commit(uri, uri, commit)
    assert isinstance(moved, HfUri)
    assert (moved.repo, moved.commit, moved.path) == (uri.repo, commit, uri.path)
    assert moved.text == f"hf://ns/repo@{commit}{path}"
