"""``modelfetch env`` on real files."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from modelfetch.cli.app import run
from modelfetch.tiers.dotenv.render import END
from modelfetch.tiers.gpu import DetectedGpus, Gpu
from tests.cases import first

if TYPE_CHECKING:
    from collections.abc import Callable

    Env = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).parent.parent.parent.parent


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Env:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("modelfetch.tiers.gpu.find_gpus", lambda **_: DetectedGpus())

    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(["env", *words])
        return (code, *capsys.readouterr())

    return call


def test_the_committed_env_example_is_the_output_for_8g(env: Env) -> None:
    code, out, err = env("--tier", "8g")
    assert (code, err) == (0, "")
    assert (ROOT / ".env.example").read_text() == out, "run: modelfetch env --tier 8g > .env.example"


def test_one_command_switches_the_tier_and_lists_the_changes(env: Env, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("A=1\n" + env("--tier", "8g")[1] + "B=2\n")
    code, out, err = env("--tier", "32g", "--update", str(file))
    assert (code, out) == (0, "")
    assert "GPU_VRAM_DEFAULT: 8g -> 32g" in err
    assert file.read_text() == "A=1\n" + env("--tier", "32g")[1] + "B=2\n"


def test_a_manifest_is_a_plain_argument(env: Env) -> None:
    Path("mine.yaml").write_text("version: 1\nvram: 8GiB\nextends: 8g\n")
    assert env("mine.yaml") == env("--manifest", "mine.yaml")
    assert env("mine.yaml")[0] == 0
    assert env("mine.yaml", "--tier", "8g")[0] == 2


@pytest.mark.parametrize("around", first(1, ["A=1\r\n{}B=2", "\ufeff{}", "A=1\n{}B=2\n", "{}\n# no end of line"]))
def test_updating_to_another_tier_and_back_restores_the_same_bytes(env: Env, tmp_path: Path, around: str) -> None:
    file = tmp_path / ".env"
    block = env("--tier", "8g")[1].replace("OPEN_WEBUI_PORT=3000", "OPEN_WEBUI_PORT=3999  # mine")
    before = around.format(block.replace("\n", "\r\n" if "\r" in around else "\n")).encode()
    file.write_bytes(before)
    for tier in ("32g", "94g", "8g"):
        assert env("--tier", tier, "--update", str(file), "-q") == (0, "", "")
        assert (file.read_bytes() == before) is (tier == "8g")


def test_update_keeps_the_mode_the_symlink_and_other_files(env: Env, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "stack.env"
    target.write_text("A=1\n")
    target.chmod(0o640)
    link = tmp_path / ".env"
    link.symlink_to("real/stack.env")
    assert env("--tier", "8g", "--update", ".env")[0] == 0
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert target.read_text().startswith("A=1\n")
    assert [p.name for p in target.parent.iterdir()] == ["stack.env"]


def test_update_creates_a_missing_file(env: Env, tmp_path: Path) -> None:
    assert env("--tier", "8g", "--update", ".env")[0] == 0
    assert (tmp_path / ".env").read_text() == env("--tier", "8g")[1]


def test_an_unchanged_file_is_not_written(env: Env, tmp_path: Path) -> None:
    env("--tier", "8g", "--update", ".env")
    os.utime(tmp_path / ".env", (1, 1))
    code, _, err = env("--tier", "8g", "--update", ".env")
    assert code == 0
    assert "up to date" in err
    assert (tmp_path / ".env").stat().st_mtime == 1


def test_a_file_with_unclear_block_markers_is_not_changed(env: Env, tmp_path: Path) -> None:
    data = f"A=1\n{END}\nSECRET=x\n"
    (tmp_path / ".env").write_text(data)
    code, _, err = env("--tier", "8g", "--update", ".env")
    assert code == 78
    assert "error: .env: " in err
    assert (tmp_path / ".env").read_text() == data


def test_a_folder_in_the_place_of_the_env_file_is_refused(env: Env, tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    assert env("--tier", "8g", "--update", ".env")[0] == 73


def test_a_file_that_is_no_env_file_is_not_read(env: Env, tmp_path: Path) -> None:
    """A model, for example: the lines of 64 MiB took a gigabyte and a half of memory."""
    with (tmp_path / "model.gguf").open("wb") as file:
        file.truncate(2**20 + 1)
    code, _, err = env("--tier", "8g", "--update", "model.gguf")
    assert code == 73
    assert "model.gguf is larger than 1 MiB" in err


def test_the_error_names_a_missing_folder(env: Env, tmp_path: Path) -> None:
    (tmp_path / ".env").symlink_to("elsewhere/stack.env")
    code, _, err = env("--tier", "8g", "--update", ".env")
    assert code == 73
    assert f"the folder {tmp_path}/elsewhere does not exist" in err


def test_a_variable_set_outside_of_the_block_is_warned_of(env: Env, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("OLLAMA_URL=http://nas:11434\n")
    code, _, err = env("--tier", "8g", "--update", ".env")
    assert code == 0
    assert "warning: .env:1 sets OLLAMA_URL too" in err


@pytest.mark.parametrize(("words", "code"), [(("--tier", "9g"), 2), ((), 2), (("--tier", "8g", "--manifest", "x"), 2)])
def test_a_missing_tier_is_a_usage_error(env: Env, words: tuple[str, ...], code: int) -> None:
    assert env(*words)[0] == code


def test_the_tier_may_come_from_the_environment(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_VRAM_DEFAULT", "16 GB")
    monkeypatch.setenv("OLLAMA_AUTO_PULL_MODEL", "mistral:7b")  # what runs now does not matter for a block
    assert env() == env("--tier", "16g")
    assert "\nGPU_VRAM_DEFAULT=16g\nO" not in env()[1]
    assert "\nOLLAMA_AUTO_PULL_MODEL=llama3.2:3b\n" in env()[1]


def test_a_user_defined_tier_has_a_block_too(env: Env, tmp_path: Path) -> None:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "nas.yaml").write_text(
        "version: 1\ntier: nas\nextends: 8g\nservices:\n"
        "  ollama: {vram: 2.1GiB, memory: 3g, model: 'qwen2.5:0.5b', context: 2048}\n"
    )
    code, out, _ = env("--tier", "nas")
    assert code == 0
    assert "\nGPU_VRAM_DEFAULT=nas\n" in out
    assert "\nOLLAMA_CONTEXT_LENGTH=2048\n" in out
    assert "\nOLLAMA_MEMORY_LIMIT=3g\n" in out
    assert "\n#GPU_VRAM_DEFAULT=94g\n" in out


TURING_TO_HOPPER: dict[str, str] = {}
BEFORE_TURING = {"COMFYUI_IMAGE": "yanwk/comfyui-boot:cu126-slim-20260914"}
BLACKWELL = {"TORCH_BUILD": "cu128", "WHISPERX_IMAGE": "learnedmachine/whisperx-asr-service:0.4.1-blackwell"}


@pytest.mark.parametrize(
    ("vendor", "name", "compute", "values"),
    first(
        4,
        [
            ("nvidia", "NVIDIA GeForce GTX 1080", (6, 1), BEFORE_TURING),
            ("nvidia", "NVIDIA GeForce RTX 2080", (7, 5), TURING_TO_HOPPER),
            ("nvidia", "a card of which the driver tells nothing", None, {}),
            ("amd", "AMD Radeon RX 7900 XTX", None, {}),
            ("nvidia", "NVIDIA GeForce RTX 5090", (12, 0), BLACKWELL),
            ("intel", "Intel Arc A770", None, {}),
        ],
    ),
)
def test_the_card_of_this_machine_chooses_the_images(
    env: Env,
    monkeypatch: pytest.MonkeyPatch,
    vendor: str,
    name: str,
    compute: tuple[int, int] | None,
    values: dict[str, str],
) -> None:
    card = Gpu(vendor=vendor, name=name, memory=32 * 2**30, compute=compute)
    monkeypatch.setattr("modelfetch.tiers.gpu.find_gpus", lambda **_: DetectedGpus(gpus=(card,)))
    code, out, _ = env("--tier", "8g")
    assert code == 0
    lines = out.partition("# --- The other tiers")[0].splitlines()
    names = ("TORCH_BUILD", "COMFYUI_IMAGE", "WHISPERX_IMAGE")
    assert {line.partition("=")[0]: line.partition("=")[2] for line in lines if line.startswith(names)} == values


@pytest.mark.parametrize(
    ("file", "tier", "name", "found"),
    first(
        3,
        [
            ("manifests/studio.yaml", "studio", "studio", True),
            ("studio.yaml", "studio", "studio", False),
            ("elsewhere/16g.yaml", "16g", "16g", False),
            ("manifests/studio.yaml", "other", "studio", True),
            ("studio.yaml", None, "studio", False),
            ("my models.yaml", None, "custom", False),
        ],
    ),
)
def test_a_tier_that_the_stack_cannot_find_gets_a_warning(
    env: Env, file: str, tier: str | None, name: str, found: bool
) -> None:
    Path(file).parent.mkdir(exist_ok=True)
    Path(file).write_text("version: 1\nvram: 16GiB\nmodels: []\n" + (f"tier: {tier}\n" if tier else ""))
    code, out, err = env("--manifest", file)
    assert code == 0
    assert f"\nGPU_VRAM_DEFAULT={name}\n" in out
    warning = f"warning: GPU_VRAM_DEFAULT={name} is not {file}: the stack looks for that tier in manifests/{name}.yaml"
    assert (err == "") if found else err.startswith(warning)


def test_an_embedding_model_that_privategpt_refuses_is_warned_of(env: Env, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "version: 1\nmodels:\n  - {name: e, source: 'ollama://embeddinggemma:300m', for: [ollama]}\n"
    )
    code, _, err = env("--manifest", "mine.yaml")
    assert code == 0
    assert "warning: PrivateGPT stops at start with embeddinggemma:300m: its family is gemma3" in err
