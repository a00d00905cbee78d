"""The compose files, read as text and as YAML: checks that need no engine.

Where an image can't be run here, a test compares our files with the upstream's source, named in a comment.
"""

from __future__ import annotations

import configparser
import functools
import http.server
import re
import runpy
import shutil
import subprocess
import sys
import threading
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from modelfetch.manifest.load import load_manifest
from modelfetch.tiers.dotenv.cards import GENERATIONS
from modelfetch.tiers.dotenv.variables import VARIABLES
from tests.cases import each
from tests.compose.compose_files import (
    FILES,
    HWACCEL,
    INCLUDED,
    OVERRIDES,
    REPOSITORY,
    VENDORS,
    example_settings,
    interpolate,
    read,
    services,
    uses,
)

INITS = {
    "ollama-init": ("ollama", "ollama"),
    "sd-model-init": ("stable-diffusion", "stable-diffusion"),
    "comfyui-model-init": ("comfyui", "comfyui"),
    "whisper-model-init": ("whisper", "whisperx"),
    "diffrhythm-model-init": ("diffrhythm", "diffrhythm"),
    "immich-model-init": ("immich", "immich-machine-learning"),
    "anythingllm-model-init": ("anythingllm", "anythingllm"),
}
"""Each init service, the consumer that it syncs for, and a service that waits for it."""

ENDING = {*INITS, "chat-data-init", "modelfetch-verify"}
"""The services that end."""

GPU_SERVICES = ("stable-diffusion", "comfyui", "whisperx", "diffrhythm", "immich-machine-learning-gpu")
"""The services on the GPU except Ollama, which has a separate check."""

FRONTENDS = ("open-webui", "librechat", "anythingllm", "private-gpt")
PROFILES = {"gpu", "chat", "sd", "comfyui", "whisper", "diffrhythm", "media", "gpu-media", "verify"}
NOT_OF_COMPOSE = {"COMPOSE_PROFILES"}
"""Variables of `.env` that compose itself reads."""


@functools.cache
def every() -> dict[str, dict[str, Any]]:
    return services()


TEXTS = {name: (REPOSITORY / name).read_text() for name in FILES}


def binds(service: dict[str, Any]) -> list[tuple[str, str]]:
    """Source and target of each mount."""
    return [(mount.split(":")[0], mount.split(":")[1]) for mount in service.get("volumes", [])]


@each(
    ("text", "expected"),
    [
        ("${A:-x}", "x"),
        ("${A-x}", "x"),
        ("${B:-x}", "b"),
        ("${EMPTY:-x}", "x"),
        ("${EMPTY-x}", ""),
        ("${B:+${B:-},${A:-x}}", "b,x"),
        ("${EMPTY:+${B:-},${A:-x}}", ""),
        ("a $$B ${B}", "a $B b"),
        ("${A:---opt 1}", "--opt 1"),
    ],
)
def test_variables_are_read_as_compose_reads_them(text: str, expected: str) -> None:
    assert interpolate(text, {"B": "b", "EMPTY": ""}) == expected


def test_defaults_equal_those_of_the_table_and_the_example() -> None:
    table = {variable.name: variable.default for variable in VARIABLES}
    assert example_settings() == table
    wrong = {
        (file, use.name, use.word): table.get(use.name)
        for file, text in TEXTS.items()
        for use in uses(text)
        if (use.operator in (":-", "-") and interpolate(use.word, {}) not in (table.get(use.name), ""))
        or use.name not in table
    }
    assert not wrong


def test_a_variable_without_a_default_has_none_in_the_table_either() -> None:
    # An empty word beside `:+` only keeps compose from warning; everywhere else it is the default.
    table = {variable.name: variable.default for variable in VARIABLES}
    text = re.sub(r"\$\{OLLAMA_AUTO_PULL_MODEL:\+.*\}", "", "\n".join(TEXTS.values()))
    assert {use.name for use in uses(text) if use.operator == ":-" and not use.word and table[use.name]} == set()


def test_every_variable_of_the_example_is_used_by_the_files() -> None:
    used = {use.name for text in TEXTS.values() for use in uses(text)}
    assert {variable.name for variable in VARIABLES} - used == NOT_OF_COMPOSE


def test_every_variable_has_an_operator_so_that_compose_never_warns() -> None:
    assert [use.name for text in TEXTS.values() for use in uses(text) if not use.operator] == []


def test_no_file_has_a_version_or_a_named_volume() -> None:
    for name in FILES:
        document = read(name)
        assert not {"version", "volumes"} & set(document), name
    for name, service in every().items():
        for source, _ in binds(service):
            assert source.startswith(("/", "./")), (name, source)


def test_the_root_file_includes_the_others_by_the_root_of_the_repository() -> None:
    included = read("compose.yaml")["include"]
    assert [entry["path"] for entry in included] == list(INCLUDED)
    assert {entry["project_directory"] for entry in included} == {"."}


def test_every_mount_is_inside_the_repository() -> None:
    for name, service in every().items():
        for source, _ in binds(service):
            if source == "/etc/localtime":
                continue
            assert (REPOSITORY / source).resolve().is_relative_to(REPOSITORY), (name, source)


ANYTHINGLLM = ("models/tesseract", "models/Xenova/ms-marco-MiniLM-L-6-v2")


def test_models_and_data_of_services_are_in_separate_folders() -> None:
    roots = {(name, target): source for name, service in every().items() for source, target in binds(service)}
    models = {key: source for key, source in roots.items() if source.startswith("./files/ai-models")}
    assert models == {
        **{(init, "/ai-models"): "./files/ai-models" for init in INITS},
        ("immich-machine-learning", "/cache"): "./files/ai-models/immich",
        ("immich-machine-learning-gpu", "/cache"): "./files/ai-models/immich",
        ("ollama", "/root/.ollama"): "./files/ai-models/ollama",
        ("stable-diffusion", "/models"): "./files/ai-models/stable-diffusion",
        ("comfyui", "/root/ComfyUI/models"): "./files/ai-models/comfyui/models",
        ("whisperx", "/models"): "./files/ai-models/whisper",
        ("diffrhythm", "/app/pretrained"): "./files/ai-models/diffrhythm",
        **{
            ("anythingllm", f"/app/server/storage/{part}"): f"./files/ai-models/anythingllm/{part}"
            for part in ANYTHINGLLM
        },
        ("modelfetch-verify", "/ai-models"): "./files/ai-models",
    }


def test_another_root_moves_every_mount_of_models() -> None:
    moved = services(AI_MODELS_DIR="/mnt/models")
    sources = {source for service in moved.values() for source, _ in binds(service)}
    assert not any("ai-models" in source for source in sources)
    assert "/mnt/models/whisper" in sources


@each("vendor", VENDORS)
def test_every_image_is_a_variable_with_a_pinned_default(vendor: str) -> None:
    written = {name: body["image"] for name, body in services(GPU_VENDOR=vendor).items()}
    for name, image in written.items():
        repository, _, tag = image.rpartition(":")
        assert repository, (name, image)
        assert re.search(r"\d+\.\d+\.\d+|[0-9a-f]{8}|pgvectors0\.2\.0", tag), (name, image)
    raw = "\n".join(TEXTS.values())
    lines = re.findall(r"^\s*image: (.*)$", raw, re.MULTILINE)
    assert lines
    assert [line for line in lines if not re.fullmatch(r"\$\{[A-Z_]+_IMAGE(_[A-Z]+)?:-.+\}", line)] == []


def test_every_port_is_a_variable_and_open_to_this_machine_only() -> None:
    published = {}
    for name, service in every().items():
        for port in service.get("ports", []):
            address, host, container = port.split(":")
            assert address == "127.0.0.1", (name, port)
            assert host not in published, (name, port)
            published[host] = f"{name}:{container}"
    assert published["3000"] == "open-webui:8080"
    assert published["7861"] == "stable-diffusion:7860"
    assert published["11434"] == "ollama:11434"
    raw = re.findall(r'^\s*- "\$\{BIND_ADDRESS:-127\.0\.0\.1\}:(.*?):\d+"$', "\n".join(TEXTS.values()), re.MULTILINE)
    assert len(raw) == len(published)
    assert all(re.fullmatch(r"\$\{[A-Z_]+_PORT:-\d+\}", port) for port in raw)


def test_each_init_service_runs_modelfetch_once_for_its_service() -> None:
    for init, (consumer, service) in INITS.items():
        body = every()[init]
        assert body["command"] == ["sync", "--for", consumer]
        assert body["restart"] == "no"
        assert body["read_only"] is True
        assert set(every()[service]["profiles"]) <= set(body["profiles"])
        assert every()[service]["depends_on"][init] == {"condition": "service_completed_successfully"}
        wanted = {"HF_TOKEN", "HF_ENDPOINT", "CIVITAI_API_TOKEN", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"}
        wanted |= {"MODELFETCH_REQUIRE_MARKER", "MODELFETCH_MIN_FREE"}
        assert wanted <= set(body["environment"])
        assert body["networks"] == ["downloads"]


def test_a_custom_list_includes_the_embedding_model_and_an_empty_list_means_the_tier() -> None:
    name = "OLLAMA_AUTO_PULL_MODEL"
    assert every()["ollama-init"]["environment"][name] == ""
    assert services(**{name: ""})["ollama-init"]["environment"][name] == ""
    assert (
        services(**{name: "llama3.2:3b"})["ollama-init"]["environment"][name] == "llama3.2:3b,nomic-embed-text:latest"
    )


def test_each_profile_of_a_service_contains_its_dependencies() -> None:
    for name, service in every().items():
        assert service["profiles"], name
        assert set(service["profiles"]) <= PROFILES, name
        for needed, how in service.get("depends_on", {}).items():
            if how.get("required", True):
                assert set(service["profiles"]) <= set(every()[needed]["profiles"]), (name, needed)


def test_the_profile_gpu_starts_every_gpu_service_and_the_page_to_chat() -> None:
    started = {name for name, service in every().items() if "gpu" in service["profiles"]}
    gpu = {"ollama", "ollama-gpu-check", "stable-diffusion", "comfyui", "whisperx", "diffrhythm"}
    assert started == {*gpu, "open-webui", *INITS} - {"immich-model-init", "anythingllm-model-init"}


def test_frontends_wait_for_a_healthy_ollama_and_use_its_service_name() -> None:
    for name in FRONTENDS:
        assert every()[name]["depends_on"]["ollama"] == {"condition": "service_healthy"}, name
    for name in ("open-webui", "anythingllm", "private-gpt"):
        addresses = {value for value in every()[name]["environment"].values() if "://ollama" in str(value)}
        assert addresses <= {"http://ollama:11434", "http://ollama:11434/v1"}, name
        assert addresses, name


def test_librechat_is_configured_with_ollama_only() -> None:
    assert every()["librechat"]["environment"]["ENDPOINTS"] == "custom"
    assert every()["librechat"]["configs"] == [{"source": "librechat", "target": "/app/librechat.yaml"}]
    for model in ("qwen2.5:0.5b", "llama3.2:3b"):
        text = read(INCLUDED[0], {"OLLAMA_CHAT_MODEL": model})["configs"]["librechat"]["content"]
        custom = YAML(typ="safe").load(text)["endpoints"]
        assert list(custom) == ["custom"]
        (ollama,) = custom["custom"]
        # danny-avila/LibreChat v0.8.7, packages/api/src/endpoints/models.ts: only a name that begins with "ollama" has
        # its models listed by Ollama's own API
        assert (ollama["name"], ollama["baseURL"]) == ("Ollama", "http://ollama:11434/v1/")
        assert ollama["models"] == {"default": [model], "fetch": True}


def test_an_address_to_listen_on_that_a_shell_exports_reaches_no_service() -> None:
    # ollama/ollama, docs/faq.md: "set OLLAMA_HOST=0.0.0.0"; compose prefers the shell's variables to those of .env
    for enable, vendor in product(("true", "false"), VENDORS):
        assert "0.0.0.0:1" not in str(services(GPU_ENABLE=enable, GPU_VENDOR=vendor, OLLAMA_HOST="0.0.0.0:1"))
    assert "OLLAMA_HOST" not in every()["ollama"]["environment"]
    elsewhere = services(OLLAMA_URL="http://elsewhere:1")
    for name in ("open-webui", "anythingllm", "private-gpt", "ollama-gpu-check"):
        assert "http://elsewhere:1" in str(elsewhere[name]["environment"]), name
    assert "elsewhere" not in str(elsewhere["ollama"])


def test_no_compose_file_uses_localai_extra_hosts_or_env_file() -> None:
    everything = "\n".join(TEXTS.values()).lower()
    for word in ("localai", "host.docker.internal", "extra_hosts", "env_file"):
        assert word not in everything


def test_ollama_is_set_up_by_the_tier() -> None:
    body = every()["ollama"]
    assert body["healthcheck"]["test"] == ["CMD", "ollama", "list"]
    environment = body["environment"]
    assert environment["OLLAMA_NOPRUNE"] == "1"
    assert {"OLLAMA_CONTEXT_LENGTH", "OLLAMA_NUM_PARALLEL", "OLLAMA_FLASH_ATTENTION"} <= set(environment)
    assert services(OLLAMA_KV_CACHE_TYPE="q8_0")["ollama"]["environment"]["OLLAMA_KV_CACHE_TYPE"] == "q8_0"


def test_speech_models_are_looked_for_in_the_root() -> None:
    environment = every()["whisperx"]["environment"]
    assert environment["HF_HOME"] == "/models"
    assert environment["TORCH_HOME"] == "/models/torch"
    assert environment["NLTK_DATA"] == "/models/nltk_data"


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


def test_every_service_has_a_health_check_but_those_that_end() -> None:
    assert {name for name, body in every().items() if not body.get("healthcheck", {}).get("test")} == ENDING


def test_every_web_page_has_labels_for_traefik_and_glance() -> None:
    routers = []
    for name, service in every().items():
        if not service.get("ports"):
            continue
        labels = service["labels"]
        port = service["ports"][0].rpartition(":")[2]
        assert {"glance.name", "glance.icon", "glance.url", "glance.description"} <= set(labels), name
        assert labels[f"traefik.http.services.{router_of(labels)}.loadbalancer.server.port"] == port
        assert labels["traefik.enable"] == "false"
        routers.append((router_of(labels), labels[f"traefik.http.routers.{router_of(labels)}.rule"]))
    assert len({router for router, _ in routers}) == len({rule for _, rule in routers}) == len(routers) > 0


def test_traefik_publishes_only_services_with_a_web_page() -> None:
    published = {
        name for name, body in every().items() if any(label.startswith("traefik.") for label in body.get("labels", {}))
    }
    assert published == {name for name, body in every().items() if body.get("ports")}


def test_parents_in_glance_exist() -> None:
    labels = {name: body.get("labels", {}) for name, body in every().items()}
    known = {own["glance.id"] for own in labels.values() if "glance.id" in own}
    parents = {own["glance.parent"] for own in labels.values() if "glance.parent" in own}
    assert parents == known == {"ollama", "librechat", "immich"}


def test_every_icon_of_glance_was_looked_up_in_its_collection() -> None:
    icons = {body["labels"]["glance.icon"] for body in every().values() if "glance.icon" in body.get("labels", {})}
    simple_icons = {"si:ollama", "si:googlechat", "si:bookstack", "si:readthedocs", "si:immich"}  # 16.37.0
    material_design = {"mdi:image-multiple", "mdi:graph-outline", "mdi:microphone", "mdi:chat"}  # 7.4.47
    assert icons == simple_icons | material_design


def test_no_secret_has_a_default() -> None:
    secret = re.compile(r"PASSWORD|SECRET|TOKEN|(?<!_API)_KEY|SALT|CREDS")
    not_secret = {
        "OLLAMA_MODEL_TOKEN_LIMIT",
        "HF_TOKEN",
        "WEBUI_SECRET_KEY_FILE",
        "DB_PASSWORD_FILE",
        "WHISPER_GENERIC_OPEN_AI_API_KEY",
    }
    assert [variable.name for variable in VARIABLES if secret.search(variable.name) and variable.default] == []
    for name, body in every().items():
        given = {key for key, value in body["environment"].items() if secret.search(key) and value}
        assert given <= not_secret, name
    assert every()["whisperx"]["environment"]["HF_TOKEN"] == "not-needed-offline"


def test_the_frontends_that_write_into_folders_of_their_own_run_as_their_images_user() -> None:
    # Mintplex-Labs/anything-llm, docker/Dockerfile: USER anythingllm, 1000; server/utils/collectorApi starts Chromium
    # with its sandbox, which it refuses as root. danny-avila/LibreChat, Dockerfile: USER node, 1000.
    users = {name: body["user"] for name, body in every().items() if "user" in body}
    assert users == {"librechat": "1000:1000", "anythingllm": "1000:1000"}


def router_of(labels: dict[str, str]) -> str:
    """The name of a service's router."""
    return next(key.split(".")[3] for key in labels if key.startswith("traefik.http.routers."))


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


def test_profiles_of_every_tier_exist() -> None:
    text = (REPOSITORY / ".env.example").read_text()
    found = re.findall(r"^#?COMPOSE_PROFILES=(\S+)$", text, re.MULTILINE)
    assert len(found) >= 2
    assert {profile for line in found for profile in line.split(",")} <= PROFILES


def test_the_documented_entry_for_diarization_is_valid() -> None:
    page = (REPOSITORY / "docs" / "ai-services-setup.md").read_text()
    (entry,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (model,) = load_manifest(f"version: 1\nmodels:\n{entry}").models
    assert (model.kind, model.consumers) == ("snapshot", ("whisper",))
    assert model.files is not None
    assert len(model.files) == 5


def test_the_tables_of_the_setup_page_are_those_of_the_files() -> None:
    page = (REPOSITORY / "docs" / "ai-services-setup.md").read_text()
    addresses = dict(re.findall(r"^\| ([^|]+) \| <http://localhost:(\d+)[^>]*> \|", page, re.MULTILINE))
    assert sorted(addresses.values()) == sorted(
        body["ports"][0].split(":")[1] for body in every().values() if "ports" in body
    )
    ports = {body["ports"][0].split(":")[1]: body["profiles"] for body in every().values() if "ports" in body}
    rows = re.findall(r"^\| [^|]+ \| <http://localhost:(\d+)[^>]*> \| ([^|]+) \|$", page, re.MULTILINE)
    assert {port: re.findall(r"`([a-z-]+)`", profiles) for port, profiles in rows} == ports
    table = page.partition("\n## Profiles\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)) == PROFILES


def test_the_cards_of_the_setup_page_are_those_that_env_knows() -> None:
    page = (REPOSITORY / "docs" / "ai-services-setup.md").read_text()
    table = page.partition("\n### Generations of NVIDIA cards\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| [^|]+\(([^|)]+)\) \| (\d+)\.(\d+) [^|]*\| ([^|]+) \|$", table, re.MULTILINE)
    lines = [dict(line.split("=") for line in re.findall(r"`([A-Z_]+=[^`]+)`", values)) for *_, values in rows]
    assert [(int(major), int(minor)) for _, major, minor, _ in rows] == [one.since for one in GENERATIONS]
    assert lines == [dict(one.values) for one in GENERATIONS]
    for (names, *_), generation in zip(rows, GENERATIONS, strict=True):
        first_and_last = {generation.names.split(", ")[0], generation.names.split(", ")[-1]}
        assert first_and_last <= set(re.split(r", | and | to ", names)), names


def test_files_under_the_root_are_not_in_git_but_their_description_is() -> None:
    ignored = Path(REPOSITORY / ".gitignore").read_text().splitlines()
    assert "files/*" in ignored
    assert "!files/README.md" in ignored
    assert (REPOSITORY / "files" / "README.md").is_file()


# ── stability ──
def test_images_of_names_that_anyone_could_publish_are_never_pulled_and_built_only_when_missing() -> None:
    # docker/compose v2.27.1, v2.29.7 and v5.6.0, pkg/compose/pull.go: `never` skips the pull; build.go: an image that
    # exists is built again only with `build`
    for vendor in VENDORS:
        found = services(GPU_VENDOR=vendor)
        built = {name for name, body in found.items() if "build" in body}
        assert built == {*ENDING, "stable-diffusion", "diffrhythm"}
        assert {name for name, body in found.items() if body.get("pull_policy") == "never"} == built
        assert all(found[name]["image"].startswith(("modelfetch:", "ai-stack/")) for name in built)


def test_every_container_log_has_a_size_limit() -> None:
    # Docker's log driver `local` keeps 5 files of 20 MB; its default, json-file, never rotates
    assert {
        name: body.get("logging") for name, body in every().items() if body.get("logging") != {"driver": "local"}
    } == {}


def test_ollamas_prompt_caches_fit_its_container() -> None:
    # ollama/ollama v0.34.2 starts llama-server with its own environment and no --cache-ram, whose default is 8192 MiB
    environment = every()["ollama"]["environment"]
    memory = int(every()["ollama"]["deploy"]["resources"]["limits"]["memory"].removesuffix("g")) * 1024
    assert int(environment["LLAMA_ARG_CACHE_RAM"]) * int(environment["OLLAMA_MAX_LOADED_MODELS"]) < memory / 4
    assert environment["LLAMA_ARG_FIT_TARGET"].isdigit()
    assert "OLLAMA_GPU_OVERHEAD" not in environment, "no effect on llama-server: server/sched.go only logs it"


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


def test_the_forge_image_contains_the_downloads_of_its_installers() -> None:
    # lllyasviel/stable-diffusion-webui-forge dfdcbab6: modules_forge/bnb_installer.py, and in extensions-builtin
    # */requirements.txt and soft-inpainting/scripts/soft_inpainting.py
    dockerfile = (REPOSITORY / "compose" / "stable-diffusion" / "Dockerfile").read_text()
    for package in ("bitsandbytes==0.45.3", "joblib==", "fvcore==", "onnxruntime==", "svglib==", "mediapipe=="):
        assert package in dockerfile
    assert '"--skip-prepare-environment", "--skip-install"' in dockerfile


def test_forge_and_whisperx_have_no_way_to_download_unless_they_are_given_one() -> None:
    for service in ("stable-diffusion", "whisperx"):
        assert every()[service]["environment"]["HTTPS_PROXY"] == "http://127.0.0.1:9"
        assert services(SERVICES_HTTPS_PROXY="")[service]["environment"]["HTTPS_PROXY"] == ""


def test_downloads_of_whisperx_are_in_a_mounted_folder() -> None:
    assert ("./files/ai-data/whisperx", every()["whisperx"]["environment"]["CACHE_DIR"]) in binds(every()["whisperx"])


def test_anythingllm_recognises_speech_with_whisperx_and_not_with_its_own_model() -> None:
    # Mintplex-Labs/anything-llm, collector/utils/WhisperProviders/GenericOpenAiWhisper.js
    environment = every()["anythingllm"]["environment"]
    assert environment["WHISPER_PROVIDER"] == "generic-openai"
    assert environment["WHISPER_GENERIC_OPEN_AI_BASE_URL"] == "http://whisperx:9000/v1"
    assert environment["WHISPER_GENERIC_OPEN_AI_MODEL"] == every()["whisperx"]["environment"]["PRELOAD_MODEL"]


def test_models_of_all_tiers_are_verified() -> None:
    body = every()["modelfetch-verify"]
    assert (body["profiles"], body["command"], body["restart"]) == (["verify"], ["verify"], "no")
    assert services(GPU_VRAM_DEFAULT="16g")["modelfetch-verify"]["environment"]["GPU_VRAM_DEFAULT"] == ""


def test_open_webuis_own_data_is_mounted_where_it_hides_nothing_of_the_image() -> None:
    # open-webui/open-webui v0.11.3, Dockerfile: TIKTOKEN_CACHE_DIR is below /app/backend/data; env.py: DATA_DIR
    body = every()["open-webui"]
    assert [target for _, target in binds(body)] == [body["environment"]["DATA_DIR"]] == ["/data"]
    assert body["environment"]["WEBUI_SECRET_KEY_FILE"].startswith("/data/")
    assert services(OLLAMA_CHAT_MODEL="x:1b")["open-webui"]["environment"]["DEFAULT_MODELS"] == "x:1b"


def test_immichs_machine_learning_is_offline_by_default_and_uses_the_proxy_otherwise() -> None:
    environment = every()["immich-machine-learning"]["environment"]
    assert environment["HF_HUB_OFFLINE"] == "1"
    # huggingface/huggingface_hub, constants.py: an empty HF_ENDPOINT is taken as it is
    assert environment["HF_ENDPOINT"] == "https://huggingface.co"
    given = services(IMMICH_ML_OFFLINE="0", HTTPS_PROXY="http://proxy:1", HF_TOKEN="t")["immich-machine-learning-gpu"]
    assert {"0", "http://proxy:1", "t"} <= set(given["environment"].values())


@each("service", GPU_SERVICES)
def test_a_gpu_service_is_unhealthy_when_it_has_lost_the_gpu(service: str) -> None:
    kind, program, script, *target = every()[service]["healthcheck"]["test"]
    assert (kind, program, script) == ("CMD", "python3", "/usr/local/bin/stack-health")
    assert len(target) == 1
    assert ("./compose/stack-health.py", script) in binds(every()[service])


def test_traefik_can_publish_a_single_service() -> None:
    for name, body in services(WHISPERX_TRAEFIK_ENABLE="true").items():
        if body.get("ports"):
            assert body["labels"]["traefik.enable"] == ("true" if name == "whisperx" else "false")


def test_traefik_requires_a_login_where_the_service_has_none() -> None:
    own_login = {"open-webui", "librechat", "immich-server"}
    for name, body in services(TRAEFIK_ENABLE="true", TRAEFIK_LOGIN_USERS="me:$2y$05$hash").items():
        if not body.get("ports"):
            continue
        labels = body["labels"]
        assert labels["traefik.enable"] == "true"
        middleware = labels.get(f"traefik.http.routers.{router_of(labels)}.middlewares")
        users = labels.get("traefik.http.middlewares.ai-stack-login.basicauth.users")
        expected = (None, None) if name in own_login else ("ai-stack-login@docker", "me:$2y$05$hash")
        assert (middleware, users) == expected, name


def test_glance_warns_of_no_service_that_has_ended_as_it_should() -> None:
    assert {name for name, body in every().items() if body.get("labels", {}).get("glance.hide") == "true"} == ENDING


# ── ComfyUI's start ──
def start_comfyui(tmp_path: Path, **environment: str) -> str:
    """Run comfyui-start.sh over the folders below ``tmp_path``, with an entrypoint that prints a line."""
    (tmp_path / "entrypoint.sh").write_text("echo started\n")
    done = subprocess.run(
        ["bash", str(REPOSITORY / "compose" / "comfyui-start.sh")],
        env={
            "PATH": "/usr/bin:/bin",
            "COMFYUI_BUNDLE": str(tmp_path / "bundle"),
            "COMFYUI_HOME": str(tmp_path / "home"),
            "COMFYUI_ENTRYPOINT": str(tmp_path / "entrypoint.sh"),
            **environment,
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.endswith("started\n")
    return done.stdout


@pytest.fixture
def comfyui(tmp_path: Path) -> Path:
    """A bundle of version 2, and a folder with the code of version 1 and files of the user."""
    for folder, version in (("bundle", "2"), ("home", "1")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "main.py").touch()
        (tmp_path / folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    for name in ("models", "custom_nodes", "input", "output", "user"):
        (tmp_path / "home" / name).mkdir()
        (tmp_path / "home" / name / "mine").touch()
    (tmp_path / "home" / "comfy").mkdir()
    return tmp_path


def test_comfyuis_code_is_replaced_when_the_image_has_another_version(comfyui: Path) -> None:
    # YanWenKun/ComfyUI-Docker, cpu/runner-scripts/entrypoint.sh: ComfyUI is copied only where main.py is missing
    assert "replacing it" in start_comfyui(comfyui)
    left = sorted(path.name for path in (comfyui / "home").iterdir())
    assert left == ["custom_nodes", "input", "models", "output", "user"]
    assert all((comfyui / "home" / name / "mine").exists() for name in left)


def test_comfyuis_code_stays_while_the_image_has_the_same_version(comfyui: Path) -> None:
    (comfyui / "home" / "comfyui_version.py").write_bytes((comfyui / "bundle" / "comfyui_version.py").read_bytes())
    (comfyui / "home" / "extra_model_paths.yaml").touch()
    assert start_comfyui(comfyui) == "started\n"
    assert (comfyui / "home" / "extra_model_paths.yaml").exists()


@pytest.mark.parametrize(
    "before", [None, "[default]\nuse_uv = False\nsecurity_level = weak\n", "[other]\nx = 1\n", "[default]\r\nx = 1\n"]
)
def test_comfyui_manager_has_the_configured_security_level(comfyui: Path, before: str | None) -> None:
    # the same repository, */builder-scripts/preload-cache.sh: security_level = weak in every image with the Manager
    config = comfyui / "home" / "user" / "__manager" / "config.ini"
    if before is not None:
        config.parent.mkdir(parents=True)
        config.write_bytes(before.encode())
    for security, network in (("normal", "offline"), ("strong", "public")):
        start_comfyui(comfyui, COMFYUI_MANAGER_SECURITY=security, COMFYUI_MANAGER_NETWORK=network)
        parser = configparser.ConfigParser()
        parser.read(config)
        assert (parser["default"]["security_level"], parser["default"]["network_mode"]) == (security, network)
    environment = every()["comfyui"]["environment"]
    assert environment["COMFYUI_MANAGER_SECURITY"] == "normal"
    assert environment["COMFYUI_MANAGER_NETWORK"] == "offline"


def test_comfyuis_packages_and_code_are_in_a_folder_that_outlives_the_container() -> None:
    # the same repository: `VOLUME /root` in cpu, rocm7, xpu and cu126-slim, `PIP_USER=true` in the entrypoints
    assert ("./files/ai-data/comfyui/root", "/root") in binds(every()["comfyui"])
    assert every()["comfyui"]["command"] == ["bash", "/usr/local/bin/comfyui-start"]


# ── the health check ──
def health(target: str) -> subprocess.CompletedProcess[str]:
    script = REPOSITORY / "compose" / "stack-health.py"
    environment = {"PATH": "/usr/bin:/bin", "HTTP_PROXY": "http://127.0.0.1:1"}
    return subprocess.run([sys.executable, str(script), target], env=environment, capture_output=True, text=True)


def test_the_health_check_reads_a_page_without_a_proxy_or_looks_at_a_file(tmp_path: Path) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        good = health(f"http://127.0.0.1:{server.server_port}/")
        missing = health(f"http://127.0.0.1:{server.server_port}/nothing-here")
        server.shutdown()
        thread.join()
    assert (good.returncode, missing.returncode) == (0, 1)
    assert "unhealthy: HTTP Error 404" in missing.stderr
    (tmp_path / "empty").touch()
    (tmp_path / "full").write_text("x")
    assert [health(str(tmp_path / name)).returncode for name in ("full", "empty", "none")] == [0, 1, 1]


def test_the_health_check_fails_when_a_gpu_of_the_container_may_not_be_opened(tmp_path: Path) -> None:
    module = runpy.run_path(str(REPOSITORY / "compose" / "stack-health.py"))
    (tmp_path / "dri").mkdir()
    for name in ("nvidiactl", "nvidia0", "nvidia-uvm", "dri/renderD128"):
        (tmp_path / name).touch()
    module["check_devices"](tmp_path)
    (tmp_path / "nvidiactl").unlink()
    (tmp_path / "nvidiactl").mkdir()  # opening it for writing is refused, to root as well
    with pytest.raises(OSError):
        module["check_devices"](tmp_path)


# ── the override files ──
@each("override", [name for name in OVERRIDES if name not in ("selinux.yml", "podman.yml")])
def test_an_override_for_downloads_is_for_every_init_service(override: str) -> None:
    text = (REPOSITORY / "compose" / override).read_text()
    assert set(INITS) <= set(YAML(typ="safe").load(text)["services"])


def test_the_override_for_podman_is_for_every_gpu_service_of_nvidia() -> None:
    text = (REPOSITORY / "compose" / "podman.yml").read_text().replace("!reset null", "null")
    reserving = {name for name, body in every().items() if body["device"].get("deploy")}
    assert set(YAML(typ="safe").load(text)["services"]) == reserving == {"ollama", *GPU_SERVICES}


def test_the_override_for_selinux_repeats_every_mount() -> None:
    labelled = YAML(typ="safe").load((REPOSITORY / "compose" / "selinux.yml").read_text())["services"]
    for name, body in every().items():
        expected = {target for source, target in binds(body) if source != "/etc/localtime"}
        assert {mount.split(":")[-2] for mount in labelled.get(name, {}).get("volumes", [])} == expected, name
