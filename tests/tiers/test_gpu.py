"""The detection of GPUs, and the choice of ``auto``."""

from __future__ import annotations

import functools
import re
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from modelfetch.cli import main
from modelfetch.cli.app import run
from modelfetch.errors import SettingError
from modelfetch.manifest.load import load_manifest
from modelfetch.tiers import gpu
from modelfetch.tiers.gpu import DetectedGpus, Gpu, auto_tier, find_gpus, largest_within
from tests.cases import THOROUGH, each, first
from tests.fitting.world import TIERS, shipped

if TYPE_CHECKING:
    from pathlib import Path

    from modelfetch.manifest.model import Manifest

GIB, MIB = 2**30, 2**20


@functools.cache
def every_tier() -> tuple[tuple[str, Manifest], ...]:
    return tuple((tier, shipped(tier)) for tier in TIERS)


@dataclass
class Nvml:
    """NVML as nvidia-ml-py gives it; ``cards`` are names and memories in MiB, or an error."""

    cards: list[tuple[str | bytes, int] | Exception]
    broken: Exception | None = None
    ended: bool = False

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's name
        if self.broken:
            raise self.broken

    def nvmlShutdown(self) -> None:  # noqa: N802 - NVML's name
        self.ended = True

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802 - NVML's name
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> tuple[str | bytes, int]:  # noqa: N802 - NVML's name
        card = self.cards[index]
        if isinstance(card, Exception):
            raise card
        return card

    def nvmlDeviceGetName(self, card: tuple[str | bytes, int]) -> str | bytes:  # noqa: N802 - NVML's name
        return card[0]

    def nvmlDeviceGetMemoryInfo(self, card: tuple[str | bytes, int]) -> SimpleNamespace:  # noqa: N802 - NVML's name
        return SimpleNamespace(total=card[1] * MIB, free=0, used=0)


class ComputeNvml(Nvml):
    """NVML that knows the compute capability too."""

    def nvmlDeviceGetCudaComputeCapability(self, _card: object) -> tuple[int, int]:  # noqa: N802 - NVML's name
        return (12, 0)


def nvidia(*mib: int) -> DetectedGpus:
    return DetectedGpus(gpus=tuple(Gpu(vendor="nvidia", name=f"card {n}", memory=m * MIB) for n, m in enumerate(mib)))


def amd_card(drm: Path, name: str, text: str | None) -> None:
    device = drm / name / "device"
    device.mkdir(parents=True)
    if text is not None:
        (device / "mem_info_vram_total").write_text(text)


# ── detecting ──
def test_nvidia_cards_are_read_through_nvml(tmp_path: Path) -> None:
    nvml = Nvml([("NVIDIA GeForce RTX 4060", 8188), (b"Tesla T4", 15360)])
    found = find_gpus(nvml=nvml, drm=tmp_path)
    assert [(g.vendor, g.name, g.memory) for g in found.gpus] == [
        ("nvidia", "NVIDIA GeForce RTX 4060", 8188 * MIB),
        ("nvidia", "Tesla T4", 15360 * MIB),
    ]
    assert nvml.ended


def test_the_compute_capability_is_known_where_nvml_knows_it(tmp_path: Path) -> None:
    cards: list[tuple[str | bytes, int] | Exception] = [("RTX 5090", 32607)]
    assert [gpu.compute for gpu in find_gpus(nvml=ComputeNvml(cards), drm=tmp_path).gpus] == [(12, 0)]
    assert [gpu.compute for gpu in find_gpus(nvml=Nvml(cards), drm=tmp_path).gpus] == [None]


def test_a_card_that_is_lost_does_not_hide_the_others(tmp_path: Path) -> None:
    found = find_gpus(nvml=Nvml([RuntimeError("GPU is lost"), ("b", 8192)]), drm=tmp_path)
    assert [g.name for g in found.gpus] == ["b"]
    assert "GPU is lost" in found.why[0]


def test_amd_cards_are_read_from_sysfs_in_order(tmp_path: Path) -> None:
    amd_card(tmp_path, "card10", str(24 * GIB))
    amd_card(tmp_path, "card2", f"{16 * GIB}\n")
    (tmp_path / "card2/device/product_name").write_text("AMD Radeon RX 9070 XT\n")
    amd_card(tmp_path, "card2-DP-1", str(GIB))
    amd_card(tmp_path, "card0", None)
    amd_card(tmp_path, "card3", "nonsense")
    found = find_gpus(nvml=Nvml([], broken=RuntimeError("Driver Not Loaded")), drm=tmp_path)
    assert [(g.vendor, g.name, g.memory) for g in found.gpus] == [
        ("amd", "AMD Radeon RX 9070 XT", 16 * GIB),
        ("amd", "card10 (amdgpu)", 24 * GIB),
    ]


def test_integrated_graphics_come_after_a_card(tmp_path: Path) -> None:
    amd_card(tmp_path, "card0", f"{512 * MIB}\n")
    own = find_gpus(nvml=Nvml([]), drm=tmp_path).gpus
    assert [gpu.memory for gpu in own] == [512 * MIB]
    amd_card(tmp_path, "card1", f"{24 * GIB}\n")
    assert [gpu.memory for gpu in find_gpus(nvml=Nvml([]), drm=tmp_path).gpus] == [24 * GIB]


def test_the_configured_vendor_decides_on_a_machine_with_both(tmp_path: Path) -> None:
    amd_card(tmp_path, "card0", f"{16 * GIB}\n")
    both = Nvml([("NVIDIA RTX 4090", 24564)])
    found = {v: [g.vendor for g in find_gpus(vendor=v, nvml=both, drm=tmp_path).gpus] for v in ("", "nvidia", "amd")}
    assert found == {"": ["nvidia"], "nvidia": ["nvidia"], "amd": ["amd"]}
    assert find_gpus(vendor="nvidia", nvml=Nvml([]), drm=tmp_path).gpus == ()


class SplitNvml(Nvml):
    """A card in MIG mode; ``instances`` are their memories in MiB."""

    instances: tuple[int, ...] = ()

    def nvmlDeviceGetMigMode(self, _card: object) -> list[int]:  # noqa: N802 - NVML's name
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, _card: object) -> int:  # noqa: N802 - NVML's name
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, _card: object, index: int) -> tuple[str, int]:  # noqa: N802
        return "", self.instances[index]


def test_a_card_whose_instances_can_not_be_counted_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_self: object, _card: object) -> int:
        raise RuntimeError("Unknown Error")

    monkeypatch.setattr(SplitNvml, "nvmlDeviceGetMaxMigDeviceCount", broken)
    found = find_gpus(nvml=SplitNvml([("NVIDIA A100-SXM4-80GB", 81920)]), drm=tmp_path)
    assert (found.gpus, found.why[0]) == ((), "NVML, GPU 0: Unknown Error")


def test_of_a_card_in_mig_mode_its_instances_count(tmp_path: Path) -> None:
    split = SplitNvml([("NVIDIA A100-SXM4-80GB", 81920)])
    found = find_gpus(nvml=split, drm=tmp_path)
    assert (found.gpus, found.why[0]) == ((), "GPU 0 is in MIG mode and has no instance")
    split.instances = (19968, 9856)
    found = find_gpus(nvml=split, drm=tmp_path)
    assert [str(gpu) for gpu in found.gpus] == [
        "NVIDIA A100-SXM4-80GB (a MIG instance) with 19.50 GiB",
        "NVIDIA A100-SXM4-80GB (a MIG instance) with 9.62 GiB",
    ]
    assert auto_tier(every_tier(), {}, found=found).tier == "16g"


def test_without_a_card_the_reasons_are_given(tmp_path: Path) -> None:
    found = find_gpus(nvml=Nvml([], broken=RuntimeError("Driver Not Loaded")), drm=tmp_path / "none")
    assert found.gpus == ()
    assert "Driver Not Loaded" in "; ".join(found.why)


def test_without_nvidia_ml_py_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "pip install nvidia-ml-py" in "; ".join(find_gpus(drm=tmp_path).why)


# ── choosing ──
@each(
    ("card", "mib", "tier"),
    [
        ("RTX 4060", 8188, "8g"),
        ("RTX 3070", 8192, "8g"),
        ("RTX 2080, which reports less", 7982, "8g"),
        ("RTX 3060 12 GB", 12288, "8g"),
        ("T4, of which 15 GiB are there", 15360, "16g"),
        ("RTX 4060 Ti 16 GB", 16380, "16g"),
        ("RTX 4090", 24564, "16g"),
        ("RTX 5090", 32607, "32g"),
        ("A6000", 49140, "32g"),
        ("H100 80 GB", 81559, "32g"),
        ("H100 NVL", 95830, "94g"),
        ("RTX PRO 6000 96 GB", 97887, "94g"),
        ("H200", 143771, "94g"),
    ],
)
def test_auto_takes_the_largest_tier_that_fits(card: str, mib: int, tier: str) -> None:
    assert auto_tier(every_tier(), {}, found=nvidia(mib)).tier == tier, card


def test_usable_memory_grows_with_the_card_and_is_less_than_its_total() -> None:
    usable = [Gpu(vendor="nvidia", name="x", memory=mib * MIB).usable for mib in range(256, 150_000, 97)]
    assert usable == sorted(usable)
    assert all(u < mib * MIB for u, mib in zip(usable, range(256, 150_000, 97), strict=True))


@each(("count", "tier"), [("", "32g"), ("1", "32g"), ("2", "8g"), ("7", "8g"), ("all", "8g"), ("-1", "8g")])
def test_of_several_cards_the_smallest_of_those_that_services_see_counts(count: str, tier: str) -> None:
    assert auto_tier(every_tier(), {"GPU_COUNT": count}, found=nvidia(32607, 8192)).tier == tier


@each(
    ("environ", "found", "why"),
    [
        ({}, DetectedGpus(why=("NVML says no",)), "NVML says no"),
        ({"GPU_ENABLE": "false"}, nvidia(8192), "GPU_ENABLE=false"),
        ({"GPU_VENDOR": "cpu"}, nvidia(8192), "GPU_VENDOR=cpu forbids it"),
        ({"GPU_VENDOR": "Intel"}, nvidia(8192), "GPU_VENDOR=intel names cards"),
        ({"GPU_COUNT": "0"}, nvidia(8192), "GPU_COUNT=0"),
        ({}, nvidia(2048, 24564), r"services see 1 of 2 GPUs \(GPU_COUNT\)"),
        ({}, nvidia(4096), "no tier fits card 0 with 4.00 GiB"),
    ],
)
def test_without_a_gpu_that_fits_auto_is_78_and_names_the_tiers(
    environ: dict[str, str], found: DetectedGpus, why: str
) -> None:
    with pytest.raises(SettingError, match=why) as bad:
        auto_tier(every_tier(), environ, found=found)
    assert (bad.value.exit_code, bad.value.code) == (78, "no-gpu")
    assert bad.value.hint is not None
    assert "8g, 16g, 32g, 94g" in bad.value.hint


@each("count", ["two", "1.5", "99999", "²"])
def test_an_invalid_gpu_count_is_a_setting_error(count: str) -> None:
    with pytest.raises(SettingError, match="GPU_COUNT"):
        auto_tier(every_tier(), {"GPU_COUNT": count}, found=nvidia(8192))


def tier(name: str, gib: int) -> tuple[str, Manifest]:
    text = f"version: 1\nvram: 90GiB\nservices: {{ollama: {{vram: {gib}GiB}}}}\nmodels: []\n"
    return name, load_manifest(text)


def test_an_own_tier_counts_and_the_shipped_one_wins_a_tie() -> None:
    tiers = [tier("8g", 7), tier("zz", 7), tier("mine", 9), tier("demo", 1)]
    assert largest_within(tiers, 8 * GIB) == "8g"
    assert largest_within(tiers, 9 * GIB) == "mine"
    assert largest_within(tiers, 2 * GIB) is None


# ── in the program ──
@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml([("NVIDIA RTX 4060 Ti", 16380)]))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("card")
def test_the_program_takes_auto_from_the_command_line_and_from_the_stacks_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["status", "--tier", "auto", "--json"]) == 1
    assert '"tier": "16g"' in capsys.readouterr().out
    monkeypatch.setenv("GPU_VRAM_DEFAULT", "AUTO")
    assert run(["env"]) == 0
    assert "\nGPU_VRAM_DEFAULT=16g\n" in capsys.readouterr().out


@THOROUGH
@pytest.mark.usefixtures("card")
def test_tiers_marks_the_one_that_auto_would_choose(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tiers"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"\n16g \* +16.00 GiB", out)
    assert "NVIDIA RTX 4060 Ti" in out
    # Files whose size only their source knows are not in the sum, and are marked.
    assert "diffrhythm-1.2?" in out
    assert "\n?: not counted in SIZE" in out
    assert run(["tiers", "--json"]) == 0
    import json

    lines = json.loads(capsys.readouterr().out)["tiers"]
    assert {line["name"]: line["auto"] for line in lines if line["name"] in TIERS} == {
        "8g": False,
        "16g": True,
        "32g": False,
        "94g": False,
    }
    keys = {"name", "vram", "usable", "services", "models", "bytes", "present", "auto", "description", "shares"}
    assert set(lines[0]) == keys


@pytest.mark.usefixtures("card")
def test_tiers_explains_the_choice_and_the_services_that_run_together(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", ComputeNvml([("NVIDIA RTX 5060 Ti", 16311)]))
    assert run(["tiers"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "* auto would choose 16g" in out
    assert "your card: NVIDIA RTX 5060 Ti (Blackwell) with 15.93 GiB, 15.00 GiB usable" in out
    assert "auto chooses 16g: its services need 13.95 GiB together; the next larger tier, 24g, needs 22.00 GiB" in out
    assert "newer models for this card: --tier 16g-2026" in out
    assert " 16g: Balanced: a 3B chat model with SDXL and Whisper large-v3-turbo models: llama3.2-3b," in out
    assert "Blackwell: it computes fp8 and fp4" in out
    assert "ollama (llama3.2:3b) 4.70 GiB + whisper (large-v3-turbo) 2.75 GiB + stable-diffusion or comfyui" in out
    assert "= 15.00 GiB of 15.00 GiB; on the CPU: whisper (large-v3-turbo)" in out


@each(
    ("compute", "generation", "weights"),
    [
        ((6, 1), "Pascal", "no bf16"),
        ((7, 5), "Turing", "no bf16"),
        ((8, 6), "Ampere", "computed in 16 bits"),
        ((8, 9), "Ada", "it computes fp8"),
        ((9, 0), "Hopper", "it computes fp8"),
        ((12, 0), "Blackwell", "fp8 and fp4"),
    ],
)
def test_the_generation_of_a_card_is_named(compute: tuple[int, int], generation: str, weights: str) -> None:
    one = Gpu(vendor="nvidia", name="x", memory=8 * GIB, compute=compute)
    assert one.generation == generation
    assert weights in (one.weights or "")
    assert str(one) == f"x ({generation}) with 8.00 GiB"


@pytest.mark.parametrize("compute", [None, (3, 5)])
def test_a_card_of_unknown_generation_gets_no_note(compute: tuple[int, int] | None) -> None:
    one = Gpu(vendor="amd", name="x", memory=8 * GIB, compute=compute)
    assert one.generation is one.weights is None
    assert str(one) == "x with 8.00 GiB"


def test_of_several_cards_the_smallest_is_named_with_the_reason() -> None:
    chosen = auto_tier(every_tier(), {"GPU_COUNT": "all"}, found=nvidia(24564, 8188))
    card, choice, *_ = chosen.reasons()
    assert card.startswith("your card: card 1 with 8.00 GiB, ")
    assert card.endswith("; the smallest of 2, since all services share one card")
    assert choice.startswith("auto chooses 8g: its services need 7.45 GiB together; the next larger tier, 16g")


def test_without_a_gpu_tiers_marks_none_and_sync_is_78(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(gpu, "DRM", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run(["tiers"]) == 0
    assert "none was found" in capsys.readouterr().out
    assert run(["sync", "--tier", "auto"]) == 78
    err = capsys.readouterr().err
    assert "hint: name the tier with --tier: 8g, 12g, 16g, 24g, 32g, 94g" in err


@pytest.mark.parametrize("words", first(1, [["--tier", "auto"], ["--tier=auto"], []]))
def test_another_card_is_noticed_by_the_next_sync(
    words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "x.safetensors"
    header = b'{"x":{"dtype":"U8","shape":[64],"data_offsets":[0,64]}}'
    weights.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    (tmp_path / "manifests").mkdir()
    for name, gib in (("small", 6), ("big", 23)):
        model = f"{{name: x, kind: vae, source: '{weights.as_uri()}', filename: {name}.safetensors, for: [comfyui]}}"
        (tmp_path / "manifests" / f"{name}.yaml").write_text(
            f"version: 1\ntier: {name}\nvram: 90GiB\nservices: {{comfyui: {{vram: {gib}.1GiB}}}}\nmodels: [{model}]\n"
        )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPU_VRAM_DEFAULT", "" if words else "Auto")
    for mib, name in ((7000, "small"), (26_000, "big"), (7000, "small")):
        monkeypatch.setitem(sys.modules, "pynvml", Nvml([("card", mib)]))
        with pytest.raises(SystemExit) as end:
            main(["sync", *words, "--json", "--offline"])
        assert end.value.code == 0
        assert f'"tier": "{name}"' in capsys.readouterr().out
