"""Decide whether a tier's services fit into its memory, and each service into its budget."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from modelfetch.core.units import format_size
from modelfetch.errors import FitError, ModelfetchError, unique
from modelfetch.fitting.estimate import fit_model
from modelfetch.fitting.suggestions import smallest, what_would_fit
from modelfetch.fitting.types import FitReport, ServiceFit
from modelfetch.fitting.workload import IMAGE_SERVICES, load
from modelfetch.manifest.budget import in_turns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelfetch.fitting.suggestions import Needs
    from modelfetch.fitting.types import Candidate, Estimate
    from modelfetch.manifest.model import Service


def fit_tier(
    *,
    tier: str | None,
    services: Sequence[Service],
    candidates: Sequence[Candidate],
    usable: int | None,
) -> FitReport:
    """Decide whether a whole tier fits; if a model can't be read, the others are still estimated.

    Args:
        tier: Its name.
        services: Its services, with budgets and settings.
        candidates: Its models, with readers for their headers.
        usable: The card's usable memory in bytes; None if unknown.
    """
    fits: list[ServiceFit] = []
    errors: list[ModelfetchError] = []
    for service in services:
        fit, found = _fit_service(service, candidates)
        fits.append(fit)
        errors += found
    needed = total_needed(fits)
    if usable is not None and needed > usable:
        errors.append(_over_usable(services, fits, candidates, needed - usable, usable))
    return FitReport(
        tier=tier,
        usable=usable,
        needed=needed,
        services=tuple(fits),
        errors=unique(errors),  # one model may fail for several services
        bytes_fetched=sum(candidate.fetched for candidate in candidates),
    )


def fit_alone(candidate: Candidate, service: Service, *, usable: int | None = None) -> FitReport:
    """Decide whether one model fits into ``usable`` bytes, if given; it is one service without a budget.

    Raises:
        NotAModelError: It is not a model, or it is damaged.
        ModelfetchError: The source failed.
    """
    estimate = fit_model(candidate, service)
    fit = ServiceFit(
        service=service.name, budget=None, needed=estimate.needed, models=(estimate,), sure=not estimate.unknown
    )
    errors = _unknown(estimate)
    if usable is not None and fit.needed > usable:
        hint = what_would_fit(service, _kind_of(estimate), usable, _needs_alone(candidate))
        message = f"{candidate.name} needs {format_size(fit.needed)}, but {format_size(usable)} are usable"
        message += _on_the_gpu(estimate, usable)
        errors += (_does_not_fit(message, hint, candidate.name, candidate.uri),)
    return FitReport(
        tier=None,
        usable=usable,
        needed=fit.needed,
        services=(fit,),
        errors=errors,
        bytes_fetched=candidate.fetched,
    )


def total_needed(fits: Sequence[ServiceFit]) -> int:
    """Total need of all services; of those that take turns, only the largest counts."""
    return sum(max(fit.needed for fit in group) for group in in_turns(fits))


def _fit_service(service: Service, candidates: Sequence[Candidate]) -> tuple[ServiceFit, tuple[ModelfetchError, ...]]:
    if service.device == "cpu":
        return _service_fit(service, (), needed=0, sure=True), ()
    loaded = load(service, candidates)
    errors = loaded.errors + tuple(f for e in loaded.estimates for f in _unknown(e))
    if not loaded.estimates and not errors:
        errors = (_nothing_known(service),)
    needed = loaded.needed if loaded.estimates else service.vram or 0
    fit = _service_fit(service, loaded.estimates, needed=needed, sure=not errors)
    if service.vram is not None and needed > service.vram:
        errors += (_over_budget(service, fit, candidates),)
    return fit, errors


def _service_fit(service: Service, models: tuple[Estimate, ...], *, needed: int, sure: bool) -> ServiceFit:
    return ServiceFit(
        service=service.name,
        budget=service.vram,
        needed=needed,
        models=models,
        exclusive=service.exclusive,
        on_cpu=service.device == "cpu",
        sure=sure,
    )


# ── errors and suggestions ──
def _unknown(estimate: Estimate) -> tuple[ModelfetchError, ...]:
    if not estimate.unknown:
        return ()
    message = f"the VRAM that {estimate.name} needs is unknown: " + "; ".join(estimate.unknown)
    hint = "load it and read the memory that it uses from `nvidia-smi`"
    return (FitError(message, code="unknown-model", model=estimate.name, uri=estimate.uri, hint=hint),)


def _nothing_known(service: Service) -> ModelfetchError:
    message = f"the VRAM that {service.name} needs is unknown: no model that it loads is listed for it"
    hint = f"list one with `for: [{service.name}]`, drop the service, or set `device: cpu`"
    return FitError(message, code="unknown-model", hint=hint)


def _does_not_fit(message: str, hint: str | None, model: str | None = None, uri: str | None = None) -> ModelfetchError:
    hint = hint or "use a smaller or more quantized model, a smaller tier, or fewer services"
    return FitError(message, model=model, uri=uri, hint=hint)


def _over_budget(service: Service, fit: ServiceFit, candidates: Sequence[Candidate]) -> ModelfetchError:
    largest = max(fit.models, key=lambda e: e.needed)
    budget = fit.budget or 0
    message = f"{service.name} needs {format_size(fit.needed)}, but its budget is {format_size(budget)}"
    message += _on_the_gpu(largest, budget - (fit.needed - largest.needed))
    hint = what_would_fit(service, _kind(service), budget, _needs(candidates))
    hint = hint or f"raise its vram to {format_size(fit.needed)}, or drop the service"
    return _does_not_fit(message, hint, largest.name, largest.uri)


def _over_usable(
    services: Sequence[Service], fits: Sequence[ServiceFit], candidates: Sequence[Candidate], excess: int, usable: int
) -> ModelfetchError:
    needs = _needs(candidates)
    service_of = {id(fit): service for service, fit in zip(services, fits, strict=True)}
    groups = ([(service_of[id(fit)], fit) for fit in group] for group in in_turns(fits))
    hints = filter(None, (_reductions(group, excess, needs) for group in groups))
    message = f"the services need {format_size(usable + excess)} together, but {format_size(usable)} are usable"
    hint = "; ".join(hints)
    for llm_on_cpu in (False, True):
        hint = hint or _all_together(services, fits, needs, usable, llm_on_cpu=llm_on_cpu) or ""
    return _does_not_fit(message, hint)


def _on_the_gpu(estimate: Estimate, limit: int) -> str:
    """Describe what happens to a language model that does not fit: a part of it runs on the CPU."""
    found = estimate.on_gpu(limit)
    if found is None or estimate.layers is None:
        return ""
    layers = f"; {found.layers} of {estimate.layers.count} layers would run on the GPU"
    if estimate.layers.experts:
        return f"{layers}, {found.experts} of them with their experts; everything else on the CPU"
    return f"{layers}, the rest on the CPU"


def _reductions(group: Sequence[tuple[Service, ServiceFit]], excess: int, needs: Needs) -> str | None:
    """Changes to services that take turns that reduce their need by ``excess``; None if there are none."""
    limit = max(fit.needed for _, fit in group) - excess
    found: dict[str, list[str]] = {}
    for service, fit in group:
        if fit.needed > limit:
            hint = what_would_fit(service, _kind(service), limit, needs) if fit.models else None
            if hint is None:
                return None
            found.setdefault(hint, []).append(service.name)
    return "; ".join(f"{' and '.join(names)}: {hint}" for hint, names in found.items())


def _all_together(
    services: Sequence[Service], fits: Sequence[ServiceFit], needs: Needs, usable: int, *, llm_on_cpu: bool
) -> str | None:
    """Changes to several services that make the tier fit if no single change does; largest savings first."""
    options = [
        (smallest(service, _kind(service), needs, llm_on_cpu=llm_on_cpu), position)
        for position, (service, fit) in enumerate(zip(services, fits, strict=True))
        if fit.models
    ]
    changed, words = list(fits), []
    savings = [(fits[position].needed - found[1], found, position) for found, position in options if found]
    for saving, (text, needed), position in sorted(savings, key=lambda one: -one[0]):
        if saving <= 0 or total_needed(changed) <= usable:
            break
        changed[position] = replace(changed[position], needed=needed)
        words.append(f"{services[position].name} with {text}")
    total = total_needed(changed)
    return f"it would fit with all of: {'; '.join(words)} (needs {format_size(total)})" if total <= usable else None


def _kind(service: Service) -> str:
    if service.name in IMAGE_SERVICES:
        return "image"
    return "speech" if service.name.startswith("whisper") else "llm" if service.name == "ollama" else ""


def _kind_of(estimate: Estimate) -> str:
    words = {"architecture": "llm", "family": "image", "decoder_layers": "speech"}
    return next((kind for word, kind in words.items() if word in estimate.assumptions), "")


def _needs(candidates: Sequence[Candidate]) -> Needs:
    def needs(service: Service, *, fp8: bool) -> int | None:
        loaded = load(service, candidates, fp8=fp8)
        return loaded.needed if loaded.sure else None

    return needs


def _needs_alone(candidate: Candidate) -> Needs:
    def needs(service: Service, *, fp8: bool) -> int | None:
        estimate = fit_model(candidate, service, fp8=fp8)
        return None if estimate.unknown else estimate.needed

    return needs
