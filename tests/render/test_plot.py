"""The picture of `fit --plot`: well-formed, self-contained, and true to the report."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from modelfetch.cli.app import run
from modelfetch.demo.models import llama
from modelfetch.fitting.types import Estimate, FitReport, ServiceFit
from modelfetch.render.plot import fit_picture

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

GIB = 2**30
SVG = "{http://www.w3.org/2000/svg}"


def estimate(name: str, weights: float, kv: float = 0, margin: float = 0) -> Estimate:
    return Estimate(
        name=name, uri="u", weights=int(weights * GIB), kv=int(kv * GIB), margin=int(margin * GIB), method="header"
    )


def service(name: str, budget: float | None, *models: Estimate, needed: float | None = None, **keys: str) -> ServiceFit:
    total = sum(model.needed for model in models) if needed is None else int(needed * GIB)
    limit = None if budget is None else int(budget * GIB)
    return ServiceFit(service=name, budget=limit, needed=total, models=models, exclusive=keys.get("exclusive"))


def picture(*services: ServiceFit, usable: int | None = 8 * GIB) -> ET.Element:
    needed = sum(fit.needed for fit in services)
    text = fit_picture(FitReport(tier="8g", usable=usable, needed=needed, services=services))
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    return ET.fromstring(text)  # noqa: S314 - our own


def widths(root: ET.Element, kind: str, top: int = 92) -> list[float]:
    """The widths of the bars' parts of a class, of the row at ``top``."""
    found = [one for one in root.iter(f"{SVG}rect") if one.get("class") == kind and one.get("y") == str(top)]
    return [float(one.get("width", "")) for one in found]


def texts(root: ET.Element) -> list[str]:
    return [one.text or "" for one in root.iter(f"{SVG}text")]


def test_the_bars_of_a_service_are_proportional_to_its_parts() -> None:
    root = picture(service("ollama", 6, estimate("m", 2, kv=1, margin=0.5)))
    assert [widths(root, kind) for kind in ("weights", "kv", "reserve")] == [[100], [50], [25]]
    assert widths(root, "budget", 90) == [300]
    assert "3.50 GiB of 6.00 GiB" in texts(root)


def test_a_service_over_its_budget_is_highlighted() -> None:
    root = picture(service("a", 1, estimate("m", 2)), service("b", 3, estimate("n", 2)))
    bad = [one.text for one in root.iter(f"{SVG}text") if one.get("class") == "bad"]
    assert bad == ["2.00 GiB of 1.00 GiB"]


def test_of_services_in_turn_only_the_largest_counts_together() -> None:
    services = (
        service("a", 4, estimate("m", 2), exclusive="image"),
        service("b", 4, estimate("n", 3), exclusive="image"),
        service("c", 4, estimate("o", 1)),
    )
    assert widths(picture(*services), "together", 92 + 3 * 44) == [150, 50]


def test_of_models_that_are_loaded_in_turn_the_largest_is_drawn() -> None:
    root = picture(service("a", 4, estimate("m", 2), estimate("n", 3), needed=3))
    assert widths(root, "weights") == [150]


def test_names_are_escaped_and_shortened_with_the_full_name_as_a_tooltip() -> None:
    name = "<b>&\x1b" + "語" * 20
    root = picture(service(name, 4, estimate("</svg>", 2)))
    assert texts(root)[7].startswith("<b>&\ufffd")
    assert texts(root)[7].endswith("…")
    titles = [one.text for one in root.iter(f"{SVG}title")]
    assert name.replace("\x1b", "\ufffd") in titles
    assert "</svg>, weights: 2.00 GiB" in titles


def test_a_report_without_known_sizes_is_drawn() -> None:
    root = picture(service("a", None), usable=None)
    assert "0 B" in texts(root)


def test_fit_plot_writes_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.gguf").write_bytes(llama())
    assert run(["fit", "./m.gguf", "--plot", "vram.svg"]) == 0
    assert run(["fit", "./m.gguf", "--plot", "none/vram.svg"]) == 73
    assert "hint: make it first: mkdir -p none" in capsys.readouterr().err
    assert "together" in (tmp_path / "vram.svg").read_text()
