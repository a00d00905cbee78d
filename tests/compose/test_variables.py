"""Every variable of the compose files has its default in one table, and none is a secret."""

from __future__ import annotations

import re
from itertools import product

from modelfetch.tiers.dotenv.variables import VARIABLES
from tests.cases import each
from tests.compose.compose_files import REPOSITORY, VENDORS, example_settings, interpolate, services, uses
from tests.compose.expected import PROFILES, TEXTS, every

NOT_OF_COMPOSE = {"COMPOSE_PROFILES"}
"""Variables of `.env` that compose itself reads."""


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


def test_an_address_to_listen_on_that_a_shell_exports_reaches_no_service() -> None:
    # ollama/ollama, docs/faq.md: "set OLLAMA_HOST=0.0.0.0"; compose prefers the shell's variables to those of .env
    for enable, vendor in product(("true", "false"), VENDORS):
        assert "0.0.0.0:1" not in str(services(GPU_ENABLE=enable, GPU_VENDOR=vendor, OLLAMA_HOST="0.0.0.0:1"))
    assert "OLLAMA_HOST" not in every()["ollama"]["environment"]
    elsewhere = services(OLLAMA_URL="http://elsewhere:1")
    for name in ("open-webui", "anythingllm", "private-gpt", "ollama-gpu-check"):
        assert "http://elsewhere:1" in str(elsewhere[name]["environment"]), name
    assert "elsewhere" not in str(elsewhere["ollama"])


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


def test_profiles_of_every_tier_exist() -> None:
    text = (REPOSITORY / ".env.example").read_text()
    found = re.findall(r"^#?COMPOSE_PROFILES=(\S+)$", text, re.MULTILINE)
    assert len(found) >= 2
    assert {profile for line in found for profile in line.split(",")} <= PROFILES
