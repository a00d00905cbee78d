"""The compose files, read as text and as YAML: checks that need no engine.

Where an image can't be run here, a test compares our files with the upstream's source, named in a comment.
"""

from __future__ import annotations

from pathlib import Path

from ruamel.yaml import YAML

from tests.compose.compose_files import FILES, INCLUDED, REPOSITORY, VENDORS, read, services
from tests.compose.expected import ENDING, INITS, PROFILES, TEXTS, binds, every

FRONTENDS = ("open-webui", "librechat", "anythingllm", "private-gpt")


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


def test_the_frontends_that_write_into_folders_of_their_own_run_as_their_images_user() -> None:
    # Mintplex-Labs/anything-llm, docker/Dockerfile: USER anythingllm, 1000; server/utils/collectorApi starts Chromium
    # with its sandbox, which it refuses as root. danny-avila/LibreChat, Dockerfile: USER node, 1000.
    users = {name: body["user"] for name, body in every().items() if "user" in body}
    assert users == {"librechat": "1000:1000", "anythingllm": "1000:1000"}


def test_files_under_the_root_are_not_in_git_but_their_description_is() -> None:
    ignored = Path(REPOSITORY / ".gitignore").read_text().splitlines()
    assert "files/*" in ignored
    assert "!files/README.md" in ignored
    assert (REPOSITORY / "files" / "README.md").is_file()


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
