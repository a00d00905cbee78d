"""Which services get a GPU, of which vendor, with which build of PyTorch."""

from __future__ import annotations

import re
import shutil
import subprocess

from tests.cases import each
from tests.compose.compose_files import HWACCEL, REPOSITORY, VENDORS, read, services
from tests.compose.expected import every


def test_an_image_for_amd_is_not_built_with_the_wrong_pytorch() -> None:
    build = services(GPU_VENDOR="amd")["stable-diffusion"]["build"]
    assert {name: build["args"][name] for name in ("TORCH_INDEX_URL", "TORCH_BUILD")} == {
        "TORCH_INDEX_URL": "",
        "TORCH_BUILD": "rocm",
    }
    dockerfile = (REPOSITORY / "compose" / build["context"] / "Dockerfile").read_text()
    (check,) = re.findall(r"^RUN (test .*?)\n\n", dockerfile, re.MULTILINE | re.DOTALL)
    sh = shutil.which("sh")
    assert sh is not None
    for given, fine in (
        ({"TORCH_BUILD": "rocm"}, False),
        ({"TORCH_BUILD": "rocm", "TORCH_INDEX_URL": "x"}, True),
        ({}, True),
    ):
        done = subprocess.run([sh, "-c", check], env={"TORCH_BUILD": "cuda", **given}, capture_output=True, text=True)
        assert (done.returncode == 0) is fine, given
        assert ("TORCH_ROCM_INDEX_URL" in done.stderr) is not fine


def test_speech_on_the_cpu_never_uses_float16() -> None:
    tier = {"WHISPERX_COMPUTE_TYPE": "float16"}
    assert services(**tier)["whisperx"]["environment"]["COMPUTE_TYPE"] == "float16"
    for settings in ({"GPU_ENABLE": "false"}, *({"GPU_VENDOR": vendor} for vendor in VENDORS if vendor != "nvidia")):
        environment = services(**tier, **settings)["whisperx"]["environment"]
        assert (environment["DEVICE"], environment["COMPUTE_TYPE"]) == ("cpu", "int8"), settings


def test_hwaccel_has_every_combination_and_a_device_only_where_requested() -> None:
    extended = [body["extends"] for body in every().values() if "extends" in body]
    templates = {one["service"] for one in extended if one["file"] == HWACCEL}
    kinds = {template.removesuffix("-true-nvidia") for template in templates if not template.startswith("immich")}
    assert kinds == {"ollama", "ollama-gpu-check", "stable-diffusion", "comfyui", "whisperx", "diffrhythm"}
    shared = read(HWACCEL)["services"]
    expected = {f"{kind}-{enable}-{vendor}" for kind in kinds for enable in ("true", "false") for vendor in VENDORS}
    toggles = ("true", "false")
    expected |= {f"immich-ml-{want}-{on}-{vendor}" for want in toggles for on in toggles for vendor in VENDORS}
    assert set(shared) == expected
    for name, body in shared.items():
        if "-false-" in name or name.endswith("-cpu"):
            assert not {"deploy", "devices", "device_cgroup_rules", "runtime"} & set(body), name


def test_gpu_services_request_gpu_count_gpus() -> None:
    for name in ("ollama", "stable-diffusion", "comfyui", "whisperx", "diffrhythm"):
        device = services(GPU_COUNT="2")[name]["device"]["deploy"]["resources"]["reservations"]["devices"]
        assert device == [{"driver": "nvidia", "count": "2", "capabilities": ["gpu"]}], name


def test_immichs_machine_learning_runs_on_the_cpu_by_default() -> None:
    assert "deploy" not in every()["immich-machine-learning"]["device"]
    on = services(IMMICH_GPU_ENABLE="true")["immich-machine-learning"]
    assert on["device"]["deploy"]
    assert on["image"].endswith("-cuda")
    assert every()["immich-machine-learning-gpu"]["device"]["deploy"]
    limits = {
        every()[name]["deploy"]["resources"]["limits"]["memory"]
        for name in ("immich-machine-learning", "immich-machine-learning-gpu")
    }
    assert limits == {"2g"}


def test_an_integrated_gpu_is_used_if_the_vendor_has_no_other() -> None:
    # ollama/ollama v0.34.2, discover/runner.go: integrated GPUs are dropped without OLLAMA_IGPU_ENABLE
    assert services(GPU_VENDOR="intel")["ollama"]["environment"]["OLLAMA_IGPU_ENABLE"] == "1"
    assert services(GPU_VENDOR="amd")["ollama"]["environment"]["OLLAMA_IGPU_ENABLE"] == "0"
    chosen = services(GPU_VENDOR="amd", OLLAMA_IGPU_ENABLE="1")
    assert chosen["ollama"]["environment"]["OLLAMA_IGPU_ENABLE"] == "1"


def test_another_build_of_pytorch_is_another_image() -> None:
    for service in ("stable-diffusion", "diffrhythm"):
        for build in ("cuda", "cu128"):
            body = services(TORCH_BUILD=build)[service]
            assert body["build"]["args"]["TORCH_BUILD"] == build
            assert body["image"].endswith(f"-{build}")


@each(
    ("arguments", "expected"),
    [
        (["cuda"], "torch==2.3.1 torchvision==0.18.1"),
        (["cuda", ""], "torch==2.3.1 torchvision==0.18.1"),
        (["rocm", "https://x"], "torch==2.3.1 torchvision==0.18.1 --index-url https://x"),
        (["cu128"], "torch==2.7.1 torchvision==0.22.1 --index-url https://download.pytorch.org/whl/cu128"),
        (["cu128", "https://mirror"], "torch==2.7.1 torchvision==0.22.1 --index-url https://mirror"),
        (["cu999"], None),
    ],
)
def test_each_build_of_pytorch_names_its_packages(arguments: list[str], expected: str | None) -> None:
    script = REPOSITORY / "compose" / "stable-diffusion" / "torch-packages.sh"
    done = subprocess.run(["sh", str(script), *arguments], capture_output=True, text=True)
    assert (done.stdout.strip() if done.returncode == 0 else None) == expected
    assert (done.returncode == 0) is (done.stderr == "")
