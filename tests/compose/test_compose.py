"""The compose files, read as text and as YAML: what they promise that no engine is needed to see."""

from __future__ import annotations

import re
import shutil
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from modelfetch.manifest.load import load_manifest
from modelfetch.tiers.dotenv.variables import VARIABLES
from tests.compose.compose_files import (
    FILES,
    HWACCEL,
    INCLUDED,
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
}
"""Each init service, the consumer that it syncs for, and the service that waits for it."""

FRONTENDS = ("open-webui", "librechat", "anythingllm", "private-gpt")
PROFILES = {"gpu", "chat", "sd", "comfyui", "whisper", "diffrhythm", "media", "gpu-media"}
NOT_OF_COMPOSE = {"COMPOSE_PROFILES"}
"""Variables of `.env` that compose itself reads."""

MOVING = {f"yanwk/comfyui-boot:{tag}" for tag in ("rocm7", "xpu", "cpu")}
"""Images of which no dated tag is known; docs/plan-differences.md says so."""

ALL = services()
TEXTS = {name: (REPOSITORY / name).read_text() for name in FILES}


def binds(service: dict[str, Any]) -> list[tuple[str, str]]:
    """Source and target of each mount."""
    return [(mount.split(":")[0], mount.split(":")[1]) for mount in service.get("volumes", [])]


@pytest.mark.parametrize(
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


def test_every_default_is_the_one_of_the_table_and_of_the_example() -> None:
    table = {variable.name: variable.default for variable in VARIABLES}
    assert example_settings() == table
    wrong = {
        (file, use.name, use.word): table.get(use.name)
        for file, text in TEXTS.items()
        for use in uses(text)
        if (use.operator in (":-", "-") and use.word not in (table.get(use.name), "")) or use.name not in table
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
    for name, service in ALL.items():
        for source, _ in binds(service):
            assert source.startswith(("/", "./")), (name, source)


def test_the_root_file_includes_the_others_by_the_root_of_the_repository() -> None:
    included = read("compose.yaml")["include"]
    assert [entry["path"] for entry in included] == list(INCLUDED)
    assert {entry["project_directory"] for entry in included} == {"."}


def test_every_mount_is_inside_the_repository() -> None:
    for name, service in ALL.items():
        for source, _ in binds(service):
            if source == "/etc/localtime":
                continue
            assert (REPOSITORY / source).resolve().is_relative_to(REPOSITORY), (name, source)


def test_models_and_what_services_write_are_apart() -> None:
    roots = {(name, target): source for name, service in ALL.items() for source, target in binds(service)}
    models = {key: source for key, source in roots.items() if source.startswith("./files/ai-models")}
    assert models == {
        **{(init, "/ai-models"): "./files/ai-models" for init in INITS},
        ("ollama", "/root/.ollama"): "./files/ai-models/ollama",
        ("stable-diffusion", "/models"): "./files/ai-models/stable-diffusion",
        ("comfyui", "/root/ComfyUI/models"): "./files/ai-models/comfyui/models",
        ("whisperx", "/models"): "./files/ai-models/whisper",
        ("diffrhythm", "/app/pretrained"): "./files/ai-models/diffrhythm",
    }


def test_another_root_moves_every_mount_of_models() -> None:
    moved = services(AI_MODELS_DIR="/mnt/models")
    sources = {source for service in moved.values() for source, _ in binds(service)}
    assert not any("ai-models" in source for source in sources)
    assert "/mnt/models/whisper" in sources


@pytest.mark.parametrize("vendor", VENDORS)
def test_every_image_is_a_variable_with_a_pinned_default(vendor: str) -> None:
    written = {name: body["image"] for name, body in services(GPU_VENDOR=vendor).items()}
    for name, image in written.items():
        repository, _, tag = image.rpartition(":")
        assert repository, (name, image)
        assert image in MOVING or re.search(r"\d+\.\d+\.\d+|[0-9a-f]{8}|pgvectors0\.2\.0", tag), (name, image)
    raw = "\n".join(TEXTS.values())
    lines = re.findall(r"^\s*image: (.*)$", raw, re.MULTILINE)
    assert lines
    assert [line for line in lines if not re.fullmatch(r"\$\{[A-Z_]+_IMAGE(_[A-Z]+)?:-[^}]+\}", line)] == []


def test_every_port_is_a_variable_and_open_to_this_machine_only() -> None:
    published = {}
    for name, service in ALL.items():
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
        body = ALL[init]
        assert body["command"] == ["sync", "--for", consumer]
        assert body["restart"] == "no"
        assert body["read_only"] is True
        assert body["profiles"] == ALL[service]["profiles"]
        assert ALL[service]["depends_on"] == {init: {"condition": "service_completed_successfully"}}
        wanted = {"HF_TOKEN", "HF_ENDPOINT", "CIVITAI_API_TOKEN", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"}
        assert wanted <= set(body["environment"])


def test_the_embedding_model_is_fetched_beside_a_list_of_ones_own_and_an_empty_list_is_the_tiers() -> None:
    name = "OLLAMA_AUTO_PULL_MODEL"
    assert ALL["ollama-init"]["environment"][name] == ""
    assert services(**{name: ""})["ollama-init"]["environment"][name] == ""
    assert (
        services(**{name: "llama3.2:3b"})["ollama-init"]["environment"][name] == "llama3.2:3b,nomic-embed-text:latest"
    )


def test_a_service_is_in_no_profile_that_lacks_what_it_depends_on() -> None:
    for name, service in ALL.items():
        assert service["profiles"], name
        assert set(service["profiles"]) <= PROFILES, name
        for needed, how in service.get("depends_on", {}).items():
            if how.get("required", True):
                assert set(service["profiles"]) <= set(ALL[needed]["profiles"]), (name, needed)


def test_the_profile_gpu_starts_every_gpu_service_and_the_page_to_chat() -> None:
    started = {name for name, service in ALL.items() if "gpu" in service["profiles"]}
    gpu = {"ollama", "ollama-gpu-check", "stable-diffusion", "comfyui", "whisperx", "diffrhythm"}
    assert started == {*gpu, "open-webui", *INITS}


def test_frontends_wait_for_a_healthy_ollama_and_ask_it_by_its_name() -> None:
    for name in FRONTENDS:
        assert ALL[name]["depends_on"]["ollama"] == {"condition": "service_healthy"}, name
    for name in ("open-webui", "anythingllm", "private-gpt"):
        addresses = {value for value in ALL[name]["environment"].values() if "://ollama" in str(value)}
        assert addresses <= {"http://ollama:11434", "http://ollama:11434/v1"}, name
        assert addresses, name


def test_librechat_knows_ollama_and_nothing_else() -> None:
    assert ALL["librechat"]["environment"]["ENDPOINTS"] == "custom"
    custom = read("compose/librechat/librechat.yaml")["endpoints"]
    assert list(custom) == ["custom"]
    assert [(one["name"], one["baseURL"]) for one in custom["custom"]] == [("Ollama", "http://ollama:11434/v1/")]


def test_the_variable_for_clients_never_reaches_the_server() -> None:
    for enable, vendor in product(("true", "false"), VENDORS):
        body = services(GPU_ENABLE=enable, GPU_VENDOR=vendor, OLLAMA_HOST="http://elsewhere:1")["ollama"]
        assert "OLLAMA_HOST" not in body["environment"]
        assert "elsewhere" not in str(body)


def test_what_the_plan_took_away_is_gone() -> None:
    everything = "\n".join(TEXTS.values()).lower()
    for word in ("localai", "host.docker.internal", "extra_hosts", "env_file"):
        assert word not in everything


def test_ollama_is_set_up_by_the_tier() -> None:
    body = ALL["ollama"]
    assert body["healthcheck"]["test"] == ["CMD", "ollama", "list"]
    environment = body["environment"]
    assert environment["OLLAMA_NOPRUNE"] == "1"
    assert {"OLLAMA_CONTEXT_LENGTH", "OLLAMA_NUM_PARALLEL", "OLLAMA_FLASH_ATTENTION"} <= set(environment)
    assert services(OLLAMA_KV_CACHE_TYPE="q8_0")["ollama"]["environment"]["OLLAMA_KV_CACHE_TYPE"] == "q8_0"


def test_speech_models_are_looked_for_in_the_root() -> None:
    environment = ALL["whisperx"]["environment"]
    assert environment["HF_HOME"] == "/models"
    assert environment["TORCH_HOME"] == "/models/torch"
    assert environment["NLTK_DATA"] == "/models/nltk_data"


def test_an_image_for_amd_is_not_built_with_the_wrong_pytorch() -> None:
    build = services(GPU_VENDOR="amd")["stable-diffusion"]["build"]
    assert build["args"] == {"TORCH_INDEX_URL": "", "TORCH_BUILD": "rocm"}
    dockerfile = (REPOSITORY / build["context"] / "Dockerfile").read_text()
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


def test_speech_on_the_cpu_is_never_asked_for_float16() -> None:
    tier = {"WHISPERX_COMPUTE_TYPE": "float16"}
    assert services(**tier)["whisperx"]["environment"]["COMPUTE_TYPE"] == "float16"
    for settings in ({"GPU_ENABLE": "false"}, *({"GPU_VENDOR": vendor} for vendor in VENDORS if vendor != "nvidia")):
        environment = services(**tier, **settings)["whisperx"]["environment"]
        assert (environment["DEVICE"], environment["COMPUTE_TYPE"]) == ("cpu", "int8"), settings


def test_every_service_has_a_health_check_but_those_that_end() -> None:
    assert {name for name, body in ALL.items() if not body.get("healthcheck", {}).get("test")} == set(INITS)


def test_every_web_page_has_labels_for_traefik_and_glance() -> None:
    routers = []
    for name, service in ALL.items():
        if not service.get("ports"):
            continue
        labels = service["labels"]
        port = service["ports"][0].rpartition(":")[2]
        assert {"glance.name", "glance.icon", "glance.url", "glance.description"} <= set(labels), name
        assert labels[f"traefik.http.services.{router_of(labels)}.loadbalancer.server.port"] == port
        assert labels["traefik.enable"] == "false"
        routers.append((router_of(labels), labels[f"traefik.http.routers.{router_of(labels)}.rule"]))
    assert len({router for router, _ in routers}) == len({rule for _, rule in routers}) == len(routers) > 0


def test_only_what_has_a_web_page_is_published_by_traefik() -> None:
    published = {
        name for name, body in ALL.items() if any(label.startswith("traefik.") for label in body.get("labels", {}))
    }
    assert published == {name for name, body in ALL.items() if body.get("ports")}


def test_what_glance_shows_below_another_names_one_that_is_there() -> None:
    labels = {name: body.get("labels", {}) for name, body in ALL.items()}
    known = {own["glance.id"] for own in labels.values() if "glance.id" in own}
    parents = {own["glance.parent"] for own in labels.values() if "glance.parent" in own}
    assert parents == known == {"ollama", "librechat", "immich"}


def test_every_icon_of_glance_was_looked_up_in_its_collection() -> None:
    icons = {body["labels"]["glance.icon"] for body in ALL.values() if "glance.icon" in body.get("labels", {})}
    simple_icons = {"si:ollama", "si:googlechat", "si:bookstack", "si:readthedocs", "si:immich"}  # 16.37.0
    material_design = {"mdi:image-multiple", "mdi:graph-outline", "mdi:microphone", "mdi:chat"}  # 7.4.47
    assert icons == simple_icons | material_design


def test_no_secret_has_a_default() -> None:
    secret = re.compile(r"PASSWORD|SECRET|TOKEN|(?<!_API)_KEY|SALT|CREDS")
    not_secret = {"OLLAMA_MODEL_TOKEN_LIMIT", "HF_TOKEN", "WEBUI_SECRET_KEY_FILE", "DB_PASSWORD_FILE"}
    assert [variable.name for variable in VARIABLES if secret.search(variable.name) and variable.default] == []
    for name, body in ALL.items():
        given = {key for key, value in body["environment"].items() if secret.search(key) and value}
        assert given <= not_secret, name
    assert ALL["whisperx"]["environment"]["HF_TOKEN"] == "not-needed-offline"


def test_services_that_write_into_folders_which_docker_makes_run_as_root() -> None:
    users = {name: body["user"] for name, body in ALL.items() if "user" in body}
    assert users == {"librechat": "0:0", "anythingllm": "0:0"}


def router_of(labels: dict[str, str]) -> str:
    """The name of a service's router."""
    return next(key.split(".")[3] for key in labels if key.startswith("traefik.http.routers."))


def test_hwaccel_has_every_combination_and_no_device_where_none_was_asked_for() -> None:
    templates = {body["extends"]["service"] for body in (services()[name] for name in ALL) if "extends" in body}
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


def test_gpu_services_ask_for_as_many_gpus_as_gpu_count_says() -> None:
    for name in ("ollama", "stable-diffusion", "comfyui", "whisperx", "diffrhythm"):
        device = services(GPU_COUNT="2")[name]["device"]["deploy"]["resources"]["reservations"]["devices"]
        assert device == [{"driver": "nvidia", "count": "2", "capabilities": ["gpu"]}], name


def test_immichs_machine_learning_is_on_the_cpu_unless_asked_for() -> None:
    assert "deploy" not in ALL["immich-machine-learning"]["device"]
    on = services(IMMICH_GPU_ENABLE="true")["immich-machine-learning"]
    assert on["device"]["deploy"]
    assert on["image"].endswith("-cuda")
    assert ALL["immich-machine-learning-gpu"]["device"]["deploy"]
    limits = {
        ALL[name]["deploy"]["resources"]["limits"]["memory"]
        for name in ("immich-machine-learning", "immich-machine-learning-gpu")
    }
    assert limits == {"2g"}


def test_profiles_of_every_tier_exist() -> None:
    text = (REPOSITORY / ".env.example").read_text()
    found = re.findall(r"^#?COMPOSE_PROFILES=(\S+)$", text, re.MULTILINE)
    assert len(found) >= 2
    assert {profile for line in found for profile in line.split(",")} <= PROFILES


def test_the_entry_for_telling_speakers_apart_is_one() -> None:
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
        body["ports"][0].split(":")[1] for body in ALL.values() if "ports" in body
    )
    ports = {body["ports"][0].split(":")[1]: body["profiles"] for body in ALL.values() if "ports" in body}
    rows = re.findall(r"^\| [^|]+ \| <http://localhost:(\d+)[^>]*> \| ([^|]+) \|$", page, re.MULTILINE)
    assert {port: re.findall(r"`([a-z-]+)`", profiles) for port, profiles in rows} == ports
    table = page.partition("\n## Profiles\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)) == PROFILES


def test_files_under_the_root_are_not_in_git_but_their_description_is() -> None:
    ignored = Path(REPOSITORY / ".gitignore").read_text().splitlines()
    assert "files/*" in ignored
    assert "!files/README.md" in ignored
    assert (REPOSITORY / "files" / "README.md").is_file()
