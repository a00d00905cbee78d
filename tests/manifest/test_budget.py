from __future__ import annotations

from modelfetch.manifest.budget import default_usable, together
from modelfetch.manifest.model import Service
from tests.cases import each
from tests.manifest.helpers import load, problems

GIB = 2**30


@each(
    ("vram", "usable"),
    [
        ("8GiB", 7.5),
        ("16GiB", 15),
        ("32GiB", 30.9),
        ("94GiB", 93),
        ("16g", 15),
        ("17179869184", 15),
        ("24GiB", 22.56),
        ("80GiB", 75.2),
    ],
)
def test_usable_memory_is_what_cards_of_a_class_leave(vram: str, usable: float) -> None:
    assert load(f"version: 1\nvram: {vram}\nmodels: []\n").usable == int(usable * GIB)


def test_a_class_in_decimal_units_is_no_class_of_the_table() -> None:
    assert default_usable(16 * 10**9) == 15_040_000_000
    assert default_usable(16 * GIB + 1) == (16 * GIB + 1) * 94 // 100


def test_usable_as_given_beats_the_table() -> None:
    assert load("version: 1\nvram: 16GiB\nusable: 12GiB\nmodels: []\n").usable == 12 * GIB
    assert load("version: 1\nusable: 12GiB\nmodels: []\n").usable == 12 * GIB
    assert load("version: 1\nmodels: []\n").usable is None


def test_usable_memory_above_the_total_is_refused() -> None:
    assert problems("version: 1\nvram: 16GiB\nusable: 17GiB\nmodels: []\n") == [
        "3:1: usable: expected at most vram, 16.00 GiB, found 17.00 GiB"
    ]
    assert problems("version: 1\nvram: 16GiB\nusable: 16GiB\nmodels: []\n") == []


def tier(*services: str, card: str = "vram: 8GiB") -> str:
    return f"version: 1\n{card}\nservices:\n" + "".join(f"  {line}\n" for line in services) + "models: []\n"


def test_services_may_use_all_usable_memory_to_the_byte() -> None:
    assert problems(tier("a: {vram: 7GiB}", "b: {vram: 0.5GiB}")) == []
    (message,) = problems(tier("a: {vram: 7GiB}", "b: {vram: 536870913}"))
    assert message.startswith(
        "3:1: services: expected at most 7.50 GiB of vram together (usable), found 7.50 GiB: 1 bytes"
    )


def test_the_error_gives_the_amount_over_the_limit() -> None:
    (message,) = problems(tier("ollama: {vram: 6g}", "stable-diffusion: {vram: 4g}"))
    assert (
        "found 10.00 GiB: 2684354560 bytes (2.50 GiB) too much (ollama 6.00 GiB, stable-diffusion 4.00 GiB)" in message
    )


def test_services_that_exclude_each_other_count_once_at_the_largest() -> None:
    pair = ("sd: {vram: 4g, exclusive: image}", "comfyui: {vram: 6g, exclusive: image}")
    assert problems(tier("ollama: {vram: 1.5GiB}", *pair)) == []
    assert len(problems(tier("ollama: {vram: 1.6GiB}", *pair))) == 1
    assert len(problems(tier("sd: {vram: 4g, exclusive: image}", "comfyui: {vram: 6g, exclusive: other}"))) == 1


def test_container_memory_limits_do_not_count_towards_the_budget() -> None:
    assert problems(tier("a: {vram: 1g, memory: 500g}", "b: {memory: 500g}")) == []


def test_without_a_vram_size_budgets_are_not_compared() -> None:
    assert problems(tier("a: {vram: 500g}", card="description: no card")) == []
    assert len(problems(tier("a: {vram: 500g}", card="usable: 4g"))) == 1


def test_exclusive_services_count_once_in_the_sum() -> None:
    services = [
        Service(name="a", vram=1),
        Service(name="b"),
        Service(name="c", vram=2, exclusive="x"),
        Service(name="x", vram=4),
    ]
    assert together(services) == 7


def test_a_service_on_the_cpu_has_no_part_of_the_budget() -> None:
    assert problems(tier("a: {vram: 7g}", "b: {vram: 4g, device: cpu}")) == []
    (message,) = problems(tier("a: {vram: 8g}", "b: {vram: 4g, device: cpu}", "c: {vram: 1g, device: cuda}"))
    assert "found 9.00 GiB" in message
    assert message.endswith("(a 8.00 GiB, c 1.00 GiB)")
