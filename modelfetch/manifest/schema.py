"""The table of the manifest's keys, from which both validation and the JSON Schema (draft 2020-12) are made."""

from __future__ import annotations

import json
from typing import Any

from modelfetch.core.digest import Digest
from modelfetch.core.root import CONSUMERS
from modelfetch.manifest.composite_types import Key, ListOf, MapOf, Record
from modelfetch.manifest.field_types import Choice, Flag, Integer, Size, Text, UriText
from modelfetch.manifest.kinds import IMMICH_TASKS, KINDS, ONLY_WITH, REPO_KINDS, REQUIRED_WITH, SELECTING, consumers_of
from modelfetch.manifest.model import OFFLOADS
from modelfetch.manifest.paths import check_relative
from modelfetch.manifest.uri import is_repo_id

VERSION = 1
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Names of tiers; also the file name of a tier, so nothing that could form a path."""

_COUNT = 2**31 - 1


def _model_name(text: str) -> str:
    if "\\" in text or any(part in ("", ".", "..") for part in text.split("/")):
        raise ValueError(f"expected a name, found the path {text[:80]!r}")
    return text


def _repo_id(text: str) -> str:
    if not is_repo_id(text):
        raise ValueError(f"expected a repo id, NS/NAME or NAME, found {text[:80]!r}")
    return text


def _glob(text: str) -> str:
    check_relative(text.removesuffix("/"))  # FOLDER/ means everything in it, as for the hub's own client
    return text


def _resolution(text: str) -> str:
    return text if "x" in text else f"{text}x{text}"


_NEEDS_KIND = r"^(?!https?://(www\.)?(ollama\.com|ollama\.ai|registry\.ollama\.ai|hf\.co/[^/]+/[^/]+:))([A-Za-z]+://|[Uu][Rr][Nn]:)"
"""Sources other than Ollama's."""


def _files_rule() -> dict[str, Any]:
    """``files`` and ``include`` go with whole repos, and choose among the files of an ``oci://`` artifact."""
    source = {"not": {"pattern": "^[Oo][Cc][Ii]://"}}
    condition = {
        "properties": {"source": source, "kind": {"not": {"enum": list(REPO_KINDS)}}},
        "required": ["source", "kind"],
    }
    return {"if": condition, "then": {"properties": dict.fromkeys(SELECTING, False)}}


def _kind_rules() -> list[dict[str, Any]]:
    """The rules between kinds, consumers and keys for editors; the loader's own are in `rules`."""
    ollama = {"properties": {"source": {"pattern": "^[Oo][Ll][Ll][Aa][Mm][Aa]://"}}}
    kindless = {"properties": {"kind": False, "for": {"items": {"const": "ollama"}}}}
    others = {"properties": {"source": {"pattern": _NEEDS_KIND}}}
    rules: list[dict[str, Any]] = [
        {"if": ollama, "then": kindless, "else": {"if": others, "then": {"required": ["kind"]}}},
        _files_rule(),
    ]
    for kind in KINDS:
        then: dict[str, Any] = {"properties": {"for": {"items": {"enum": list(consumers_of(kind))}}}}
        alone = {key for key, kinds in ONLY_WITH.items() if kind not in kinds} - set(SELECTING)
        then["properties"] |= dict.fromkeys(sorted(alone), False)
        if kind in REQUIRED_WITH:
            then["required"] = [REQUIRED_WITH[kind]]
        rules.append({"if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]}, "then": then})
    return rules


_PATH = Text(expected="a relative path", longest=1024, check=check_relative)
_GLOB = Text(expected="a glob of relative paths", longest=1024, check=_glob)
_WORD = Text(expected="a word of a-z, 0-9, _, - and :", pattern=r"^[a-z0-9][a-z0-9_:.-]{0,63}$")
_DEVICE = Text(expected="cuda, cuda:NUMBER or cpu", pattern=r"^(cpu|cuda(:[0-9]{1,2})?)$")
_DIGEST = Text(
    expected="sha256: or blake3: and 64 hex digits", pattern=r"^(sha256|blake3):[0-9a-fA-F]{64}$", check=Digest.parse
)
_TIER = Text(expected="a name of letters, digits, dots, _ and -", pattern=NAME_PATTERN)
_MODEL_NAME = Text(expected="a name on one line", longest=200, pattern=r"^\S(.*\S)?$", check=_model_name)

SERVICE = Record(
    keys={
        "vram": Key(type=Size(), doc="The service's VRAM budget, as a size."),
        "memory": Key(type=Size(minimum=1), doc="The container's RAM limit, as a size (8g as compose writes it)."),
        "model": Key(type=Text(expected="a model's name"), doc="The model that the service is budgeted for."),
        "context": Key(type=Integer(minimum=1, maximum=_COUNT), doc="Context length in tokens."),
        "parallel": Key(
            type=Integer(minimum=1, maximum=1024), doc="Requests answered at once, each with its own context."
        ),
        "kv_type": Key(type=Choice(values=("f16", "q8_0", "q4_0")), doc="Type of the KV cache."),
        "flash_attention": Key(type=Flag(), doc="Whether flash attention is on."),
        "offload": Key(type=Choice(values=OFFLOADS), doc="How much of the model leaves the GPU when it is idle."),
        "resolution": Key(
            type=Text(expected="WIDTHxHEIGHT", pattern=r"^[1-9][0-9]{1,4}(x[1-9][0-9]{1,4})?$", check=_resolution),
            doc="The largest image in pixels, such as 1024x1024.",
        ),
        "batch": Key(type=Integer(minimum=1, maximum=4096), doc="Images or streams worked on at once."),
        "compute_type": Key(type=_WORD, doc="Number type of the computation, such as int8 or float16."),
        "device": Key(type=_DEVICE, doc="Where the service computes: cuda, cpu."),
        "exclusive": Key(type=_WORD, doc="Services with the same word never run together: the largest counts once."),
    }
)

FILE = Record(
    keys={
        "path": Key(type=_PATH, doc="The file's path inside the repo.", required=True),
        "size": Key(type=Size(), doc="Its size."),
        "digest": Key(type=_DIGEST, doc="Its digest; if one is known, it alone decides."),
    },
    label="path",
)

MODEL = Record(
    keys={
        "name": Key(type=_MODEL_NAME, doc="The model's name in reports; unique in the manifest.", required=True),
        "kind": Key(
            type=Choice(values=KINDS),
            doc="The kind of model, which decides the consumer's folder; none for ollama:// sources.",
        ),
        "source": Key(
            type=UriText(),
            doc="Where it comes from: hf:// ollama:// civitai:// https:// file:/// oci:// or an AIR urn.",
            required=True,
        ),
        "mirrors": Key(
            type=ListOf(of=UriText()), doc="Other locations of the same bytes, tried in this order after the source."
        ),
        "size": Key(type=Size(), doc="The file's size."),
        "digest": Key(
            type=_DIGEST,
            doc="The file's digest (of the registry's manifest for ollama://); if one is known, it alone decides.",
        ),
        "for": Key(
            type=ListOf(of=Choice(values=CONSUMERS), minimum=1, unique=True),
            doc="The consumers that it is placed for.",
            required=True,
        ),
        "filename": Key(type=_PATH, doc="The name to give to a single file; may hold subfolders."),
        "path": Key(
            type=_PATH,
            doc="Where a `kind: file` goes, below the consumer's folder; the folder to unpack into with `unpack`.",
        ),
        "files": Key(type=ListOf(of=FILE, minimum=1), doc="The files of a snapshot, each pinned as far as is known."),
        "include": Key(type=ListOf(of=_GLOB, minimum=1, unique=True), doc="Globs that choose the files of a snapshot."),
        "cache_as": Key(
            type=Text(expected="a repo id, NS/NAME or NAME", check=_repo_id, longest=193),
            doc="The repo id that names a snapshot's folder in a Hugging Face cache; the source's own unless given.",
        ),
        "unpack": Key(type=Choice(values=("zip",)), doc="Unpack the file, an archive of this form, into `path`."),
        "task": Key(type=Choice(values=IMMICH_TASKS), doc="The task that Immich uses the model for."),
        "license": Key(type=Text(expected="a license's name"), doc="The license, for information."),
        "optional": Key(type=Flag(), doc="Whether the rest of the tier is complete without it."),
        "allow_pickle": Key(type=Flag(), doc="Accept a file that can run code when it is loaded, without a digest."),
        "allow_unscanned": Key(type=Flag(), doc="Accept a file whose scan upstream is not a success."),
    },
    label="name",
    extra={"allOf": _kind_rules()},
)

MANIFEST = Record(
    keys={
        "version": Key(
            type=Integer(minimum=VERSION, maximum=VERSION), doc="The manifest format's version.", required=True
        ),
        "tier": Key(type=_TIER, doc="The tier's name, such as 16g."),
        "vram": Key(type=Size(minimum=1), doc="The card's class, as a size."),
        "usable": Key(
            type=Size(minimum=1),
            doc="The part of it that services may use; 7.5, 15, 30.9, 93 GiB of 8, 16, 32, 94 GiB, else 0.94 of it.",
        ),
        "description": Key(type=Text(expected="text", lines=True, longest=10_000), doc="A description of the tier."),
        "extends": Key(
            type=Text(expected="a tier's name or a relative path", longest=1024),
            doc="The tier, or the file by its relative path, that this one extends.",
        ),
        "drop": Key(
            type=ListOf(of=_MODEL_NAME, unique=True),
            doc="Names of models and services of the extended manifest that this one leaves out.",
        ),
        "services": Key(
            type=MapOf(
                pattern=r"^(?!x-)[a-z0-9][a-z0-9_-]{0,63}$",
                expected="a service's name of a-z, 0-9, _ and -",
                of=SERVICE,
            ),
            doc="What runs together on the GPU; the sum of vram may not exceed usable.",
        ),
        "models": Key(type=ListOf(of=MODEL), doc="The models; required unless the manifest extends another."),
    },
    extra={"anyOf": [{"required": ["models"]}, {"required": ["extends"]}]},
)


def json_schema() -> dict[str, Any]:
    """Return the manifest's JSON Schema (draft 2020-12), for editors and other programs.

    It accepts every manifest that `load_manifest` accepts; rules between keys (kinds and consumers, budgets, clashing
    paths) are the loader's alone.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "modelfetch manifest, version 1",
        "description": "One tier: its models with their sources, pins and consumers.",
        **MANIFEST.json_schema(),
    }


def json_schema_text() -> str:
    """Return the schema as `modelfetch schema` prints it."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
