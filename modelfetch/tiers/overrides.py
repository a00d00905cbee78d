"""Apply the stack's variables that replace a tier's models to a manifest."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from modelfetch.core.events import Notice
from modelfetch.errors import ManifestError, SettingError
from modelfetch.manifest.load import load_manifest
from modelfetch.manifest.model import Position
from modelfetch.manifest.paste import from_paste
from modelfetch.manifest.uri import HfUri, OllamaUri, Uri, parse_uri, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from modelfetch.core.events import Sink
    from modelfetch.manifest.model import Manifest, Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """A variable, the consumer whose entries it replaces, and the kind of those entries (None: ``ollama`` entries)."""

    variable: str
    consumer: str
    kind: str | None


OVERRIDES = (
    Override(variable="OLLAMA_AUTO_PULL_MODEL", consumer="ollama", kind=None),
    Override(variable="STABLE_DIFFUSION_AUTO_DOWNLOAD_MODEL", consumer="stable-diffusion", kind="checkpoint"),
    Override(variable="COMFYUI_AUTO_DOWNLOAD_MODEL", consumer="comfyui", kind="checkpoint"),
)

_MOVING = (None, "main")
_EXPECTED = {
    None: "expected a model of Ollama: NAME[:TAG], hf.co/NS/REPO[:QUANTIZATION], or ollama://HOST/NS/NAME[:TAG]",
    "checkpoint": "expected the URI of one checkpoint: hf://NS/REPO[@REV]/FILE, civitai://VERSION_ID, or https://…",
}
"""What each kind of `Override` accepts, as shown to users."""


def apply_overrides(
    manifest: Manifest,
    environ: Mapping[str, str],
    *,
    allow_http: Callable[[str, int], bool],
    other_tiers: Callable[[], Iterable[Manifest]],
    sink: Sink,
) -> Manifest:
    """Return the manifest with the variables' models; an empty variable keeps the tier's models.

    A value equal to an entry's source keeps that entry, with its digest. A value that is the default of another
    shipped tier is applied with a warning, since it was probably left over in ``.env``.

    Raises:
        SettingError: A value is not a URI that the consumer accepts.
    """
    for override in OVERRIDES:
        values = [value.strip() for value in environ.get(override.variable, "").split(",") if value.strip()]
        if values:
            models = _replaced(manifest, override, values, allow_http)
            _warn_of_other_tiers_default(manifest, models, override, other_tiers, sink)
            manifest = replace(manifest, models=models)
    return manifest


def _replaced(
    manifest: Manifest, override: Override, values: list[str], allow_http: Callable[[str, int], bool]
) -> tuple[Model, ...]:
    chosen: list[Model] = []
    kept: set[str] = set()
    uris = [(_uri(value, override), value) for value in values]
    # Ignore duplicates.
    for uri, value in {replace(uri, text=""): (uri, value) for uri, value in uris}.values():
        own = next((m for m in manifest.models if _is_replaceable(m, override) and _is_same_model(m.source, uri)), None)
        if own is not None:
            kept.add(own.name)
        else:
            chosen.append(_model(value, override, allow_http))
    models = [
        _without_consumer(m, override) if _is_replaceable(m, override) and m.name not in kept else m
        for m in manifest.models
    ]
    return (*(m for m in models if m.consumers), *chosen)


def _is_replaceable(model: Model, override: Override) -> bool:
    if override.consumer not in model.consumers:
        return False
    return isinstance(model.source, OllamaUri) if override.kind is None else model.kind == override.kind


def _without_consumer(model: Model, override: Override) -> Model:
    return replace(model, consumers=tuple(c for c in model.consumers if c != override.consumer))


def _as_uri(value: str, override: Override) -> str:
    return from_paste(value, ollama=override.consumer == "ollama")


def _uri(value: str, override: Override) -> Uri:
    try:
        uri = parse_uri(_as_uri(value, override))
    except ValueError as error:
        is_word = override.kind is not None and not re.search("[:/]", value)  # no model of Ollama is meant
        raise _override_error(override, value, _EXPECTED[override.kind] if is_word else str(error)) from None
    if isinstance(uri, OllamaUri) != (override.kind is None):
        raise _override_error(override, value, _EXPECTED[override.kind])
    return uri


def _is_same_model(own: Uri, other: Uri) -> bool:
    """Whether both URIs name the same thing; a moving revision counts as equal to the tier's pinned revision."""
    if isinstance(own, HfUri) and isinstance(other, HfUri):
        moving = other.revision in _MOVING or other.revision == own.revision
        return (own.repo, own.path) == (other.repo, other.path) and moving
    return replace(own, text="") == replace(other, text="")


def _model(value: str, override: Override, allow_http: Callable[[str, int], bool]) -> Model:
    """Build an entry for the value, validated by the same rules as a manifest entry."""
    source = _as_uri(value, override)
    entry: dict[str, object] = {"name": _name(source), "source": source, "for": [override.consumer]}
    if override.kind is not None:
        entry["kind"] = override.kind
    text = json.dumps({"version": 1, "models": [entry]}) + "\n"
    try:
        (model,) = load_manifest(text, allow_http=allow_http).models
    except ManifestError as error:
        reasons = (problem.message.removeprefix(f"models[0] ({entry['name']}): ") for problem in error.problems)
        raise _override_error(override, value, "; ".join(reasons)) from None
    return replace(model, position=Position(file=override.variable, line=1, column=1))


def _name(source: str) -> str:
    """The display name: the last part of the path, without a query, which may contain a token."""
    return re.split(r"[?#]", source, maxsplit=1)[0].rpartition("/")[2][:100] or "model"


def _warn_of_other_tiers_default(
    manifest: Manifest,
    models: Iterable[Model],
    override: Override,
    other_tiers: Callable[[], Iterable[Manifest]],
    sink: Sink,
) -> None:
    added = [m for m in models if m.position.file == override.variable]
    others = [other for other in other_tiers() if other.tier != manifest.tier] if added else []
    for model in added:
        theirs = [other.tier or other.file for other in others if _has_default(other, override, model.source)]
        if theirs:
            word = "tier" if len(theirs) == 1 else "tiers"
            chosen = f"while {manifest.tier or manifest.file} is chosen"
            named = f"{override.variable} names {model.source}, the default of {word} {', '.join(theirs)}, {chosen}"
            sink(Notice(level="warning", message=named, hint="empty the variable to get the tier's own model"))


def _has_default(manifest: Manifest, override: Override, source: Uri) -> bool:
    return any(_is_replaceable(model, override) and _is_same_model(model.source, source) for model in manifest.models)


def _override_error(override: Override, value: str, why: str) -> SettingError:
    hint = "leave it empty to use the tier's own model, or write a manifest that extends the tier (`extends:`)"
    return SettingError(f"{override.variable}={shown(value)}: {why}", hint=hint)
