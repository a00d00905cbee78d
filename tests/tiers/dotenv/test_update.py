"""The block of ``.env``: what is in it, and what a rewrite leaves alone."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfetch.manifest.load import load_manifest
from modelfetch.tiers.dotenv.cards import card_values
from modelfetch.tiers.dotenv.render import END, KeptParts, TierText, quote, render_block
from modelfetch.tiers.dotenv.update import BlockError, update_block
from modelfetch.tiers.dotenv.values import DEFAULTS, compose_size, tier_values, unsupported_embedder
from modelfetch.tiers.dotenv.variables import GROUPS, HEADER, VARIABLES
from tests.cases import each
from tests.fitting.world import TIERS, shipped

if TYPE_CHECKING:
    from collections.abc import Iterable

PLAN = {
    "GPU_ENABLE": "true",
    "GPU_VRAM_DEFAULT": "8g",
    "GPU_COUNT": "1",
    "STABLE_DIFFUSION_MEMORY_LIMIT": "6g",
    "COMFYUI_MEMORY_LIMIT": "6g",
    "WHISPERX_MEMORY_LIMIT": "4g",
    "DIFFRHYTHM_MEMORY_LIMIT": "8g",
    "OLLAMA_AUTO_PULL_MODEL": "qwen2.5:0.5b",
    "STABLE_DIFFUSION_AUTO_DOWNLOAD_MODEL": "",
    "COMFYUI_AUTO_DOWNLOAD_MODEL": "",
    "IMMICH_GPU_ENABLE": "false",
    "IMMICH_ML_MEMORY_LIMIT": "2g",
}
"""The values that the plan requires in the 8g block, without the two that the block explains."""

HOLDS = {
    *("OLLAMA_CONTEXT_LENGTH", "OLLAMA_NUM_PARALLEL", "OLLAMA_FLASH_ATTENTION", "OLLAMA_KV_CACHE_TYPE"),
    *("LLAMA_ARG_CACHE_RAM", "LLAMA_ARG_FIT_TARGET", "STABLE_DIFFUSION_ARGS", "COMFYUI_ARGS", "COMPOSE_PROFILES"),
}


@functools.cache
def text_of(tier: str) -> TierText:
    return TierText(name=tier, values=tier_values(shipped(tier)))


def others(tier: str) -> list[TierText]:
    return [text_of(other) for other in TIERS if other != tier]


def block(tier: str) -> str:
    return render_block(text_of(tier), others(tier))


def parse(lines: Iterable[str]) -> dict[str, str]:
    """As compose reads a ``.env``: comments left out, quotes taken off."""
    found = {}
    for line in lines:
        if match := re.fullmatch(r"([A-Z0-9_]+)=(.*)", line):
            found[match[1]] = match[2].removeprefix('"').removesuffix('"')
    return found


def update(data: bytes, tier: str) -> bytes:
    return update_block(data, text_of(tier), others(tier)).data


# ── what is in it ──
def test_8g_has_every_variable_of_the_plan_with_its_value() -> None:
    values = parse(block("8g").splitlines())
    assert PLAN.items() <= values.items()
    assert values.keys() >= HOLDS


def test_comments_explain_values_that_differ_from_the_plan() -> None:
    text = block("8g")
    assert re.search(r"(?:^#.*\n)*^# The first plan had 1g(?:.*\n#)*.*\nOLLAMA_MEMORY_LIMIT=3g$", text, re.MULTILINE)
    assert re.search(r"^# .*It was OLLAMA_HOST.*\n# .*\nOLLAMA_URL=http://ollama:11434$", text, re.MULTILINE)


def test_the_block_has_one_header_with_the_title_of_the_plan() -> None:
    assert HEADER == "GPU & AI SERVICES CONFIGURATION"
    assert block("16g").count(HEADER) == 1


@each("tier", TIERS)
def test_every_tier_sets_every_variable_once(tier: str) -> None:
    lines = [line for line in block(tier).splitlines() if re.match(r"[A-Z0-9_]+=", line)]
    names = [line.partition("=")[0] for line in lines]
    assert len(names) == len(set(names))
    assert set(names) == {variable.name for variable in VARIABLES if not variable.commented}


def test_the_table_is_8g_so_that_a_clone_without_a_env_is_8g() -> None:
    values = tier_values(shipped("8g"))
    assert values == {name: DEFAULTS[name] for name in values}


def test_the_table_names_each_variable_once_and_only_known_groups() -> None:
    names = [variable.name for variable in VARIABLES]
    assert len(names) == len(set(names))
    assert {variable.group for variable in VARIABLES} <= set(GROUPS)


@each("tier", TIERS)
def test_the_commented_examples_of_other_tiers_have_their_values(tier: str) -> None:
    text = block(tier)
    for other in TIERS:
        if other == tier:
            continue
        (example,) = re.findall(rf"^# {other}[^\n]*\n((?:#[^\n]*\n)+)", text, re.MULTILINE)
        shown = parse(line.removeprefix("#") for line in example.splitlines())
        assert {**tier_values(shipped(tier)), **shown} == tier_values(shipped(other))


def test_a_comment_notes_that_memory_limits_do_not_cap_vram() -> None:
    assert re.search(r"do not cap vram", block("8g"), re.IGNORECASE)


def test_the_profiles_are_the_services_that_fit_one_of_those_that_take_turns() -> None:
    assert {tier: tier_values(shipped(tier))["COMPOSE_PROFILES"] for tier in TIERS} == {
        "8g": "chat,sd,whisper",
        "16g": "chat,sd,whisper",
        "32g": "chat,comfyui,whisper",
        "94g": "chat,comfyui,whisper,diffrhythm,media",
    }


def test_comfyui_reserves_the_memory_of_the_other_services() -> None:
    for tier in TIERS:
        manifest = shipped(tier)
        budget = next(s.vram for s in manifest.services if s.name == "comfyui")
        assert budget is not None
        assert manifest.usable is not None
        left = float(tier_values(manifest)["COMFYUI_ARGS"].removeprefix("--reserve-vram ")) * 2**30
        assert 0 <= left - (manifest.usable - budget) < 0.02 * 2**30


@each(
    ("service", "variable", "value"),
    [
        ("{device: cpu}", "COMFYUI_ARGS", "--cpu"),
        ("{vram: 3GiB}", "COMFYUI_ARGS", "--reserve-vram 4.50"),
        ("{memory: 1536m}", "COMFYUI_MEMORY_LIMIT", "1536m"),
        ("{memory: 1000}", "COMFYUI_MEMORY_LIMIT", "1000b"),
    ],
)
def test_settings_of_a_service_become_its_variables(service: str, variable: str, value: str) -> None:
    manifest = load_manifest(f"version: 1\nvram: 8GiB\nservices:\n  comfyui: {service}\nmodels: []\n")
    assert tier_values(manifest)[variable] == value


@each(
    ("service", "device", "compute_type"),
    [
        ("{device: cpu, compute_type: float16}", "cpu", "int8"),
        ("{device: cpu, compute_type: float32}", "cpu", "float32"),
        ("{compute_type: float16}", "cuda", "float16"),
    ],
)
def test_speech_on_the_cpu_gets_a_number_type_that_a_cpu_can_do(service: str, device: str, compute_type: str) -> None:
    values = tier_values(load_manifest(f"version: 1\nservices:\n  whisper: {service}\nmodels: []\n"))
    assert (values["WHISPERX_DEVICE"], values["WHISPERX_COMPUTE_TYPE"]) == (device, compute_type)


def test_a_tier_without_services_gets_the_tables_values() -> None:
    sources = ("me/chat:7b", "all-minilm")
    models = [f'{{name: "{s}", source: "ollama://{s}", for: [ollama]}}' for s in sources]
    values = tier_values(load_manifest(f"version: 1\ntier: mine\nmodels: [{', '.join(models)}]\n"))
    assert values["GPU_VRAM_DEFAULT"] == "mine"
    assert values["OLLAMA_AUTO_PULL_MODEL"] == "me/chat:7b"
    assert values["OLLAMA_EMBEDDING_MODEL"] == "all-minilm:latest"
    assert values["OLLAMA_MEMORY_LIMIT"] == DEFAULTS["OLLAMA_MEMORY_LIMIT"]
    assert values["COMPOSE_PROFILES"] == ""


def test_the_chat_model_that_the_budget_is_for_comes_first() -> None:
    models = "[{name: a, source: 'ollama://a', for: [ollama]}, {name: b, source: 'ollama://b:1b', for: [ollama]}]"
    manifest = load_manifest(f"version: 1\nservices: {{ollama: {{model: 'b:1b'}}}}\nmodels: {models}\n")
    values = tier_values(manifest)
    assert (values["OLLAMA_AUTO_PULL_MODEL"], values["OLLAMA_CHAT_MODEL"]) == ("b:1b,a:latest", "b:1b")
    manifest = load_manifest(f"version: 1\nservices: {{ollama: {{model: a}}}}\nmodels: {models}\n")
    assert tier_values(manifest)["OLLAMA_CHAT_MODEL"] == "a:latest"


@each(("size", "text"), [(2**30, "1g"), (3 * 2**29, "1536m"), (2**10, "1k"), (1001, "1001b")])
def test_sizes_are_written_as_compose_reads_them(size: int, text: str) -> None:
    assert compose_size(size) == text


def test_values_with_spaces_and_signs_are_quoted() -> None:
    assert quote("--reserve-vram 3.75") == '"--reserve-vram 3.75"'
    assert quote('a"$b`') == '"a\\"\\$b\\`"'
    assert quote("http://ollama:11434") == "http://ollama:11434"


# ── rewriting ──
def test_a_file_without_a_block_gets_one_at_its_end() -> None:
    assert update(b"TZ=Europe/Berlin\n", "8g") == b"TZ=Europe/Berlin\n\n" + block("8g").encode()
    assert update(b"TZ=Europe/Berlin", "8g") == b"TZ=Europe/Berlin\n\n" + block("8g").encode()
    assert update(b"", "8g") == block("8g").encode()


OTHER_LINES = st.lists(
    st.text(alphabet=st.characters(exclude_characters="\n"), max_size=30)
    .map(lambda line: line.encode("utf-8", errors="surrogatepass"))
    .filter(lambda line: HEADER.lower().encode() not in line.lower() and END.encode() not in line),
    max_size=6,
).map(lambda lines: b"".join(line + b"\n" for line in lines))


@given(before=OTHER_LINES, after=OTHER_LINES | st.binary(max_size=40), tier=st.sampled_from(TIERS))
def test_all_other_lines_are_kept_byte_for_byte(before: bytes, after: bytes, tier: str) -> None:
    if HEADER.lower().encode() in after.lower() or END.encode() in after:
        return
    # A rule above the header is taken for the header's own, so none of its kind may end what is before.
    before += b"LAST=1\n"
    there = update(before + block("8g").encode() + after, tier)
    assert there == before + block(tier).encode() + after
    assert update(there, tier) == there
    assert update(there, "8g") == before + block("8g").encode() + after


def test_windows_line_ends_are_kept() -> None:
    old = b"A=1\r\n" + block("8g").replace("\n", "\r\n").encode() + b"B=2\r\n"
    assert update(old, "32g") == b"A=1\r\n" + block("32g").replace("\n", "\r\n").encode() + b"B=2\r\n"
    assert update(b"A=1\r\n", "8g") == b"A=1\r\n\r\n" + block("8g").replace("\n", "\r\n").encode()


def test_a_value_that_no_tier_sets_is_kept_and_one_that_a_tier_sets_is_not() -> None:
    mine = block("8g").replace("OLLAMA_URL=http://ollama:11434", "OLLAMA_URL=http://nas.lan:11434")
    mine = mine.replace("GPU_COUNT=1", "GPU_COUNT=2").replace("OLLAMA_NUM_PARALLEL=1", "OLLAMA_NUM_PARALLEL=9")
    values = parse(update(mine.encode(), "16g").decode().splitlines())
    assert values["OLLAMA_URL"] == "http://nas.lan:11434"
    assert values["GPU_COUNT"] == "2"
    assert values["OLLAMA_NUM_PARALLEL"] == "2"


def test_foreign_variables_inside_the_block_are_kept() -> None:
    mine = block("8g").replace("GPU_COUNT=1", 'GPU_COUNT=1\nSECRET="two\nlines"\nexport OTHER = 3')
    once = update(mine.encode(), "16g").decode()
    assert '\nSECRET="two\nlines"\nexport OTHER = 3\n' in once
    assert update(once.encode(), "16g").decode() == once


def test_changes_and_duplicate_variables_are_reported() -> None:
    data = b"OLLAMA_URL=x\n" + block("8g").encode() + b"GPU_COUNT=3\n"
    done = update_block(data, text_of("16g"), ())
    assert ("GPU_VRAM_DEFAULT", "8g", "16g") in done.changed
    assert ("OLLAMA_NUM_PARALLEL", "1", "2") in done.changed
    assert not any(old == new for _, old, new in done.changed)
    assert dict(done.twice) == {"OLLAMA_URL": 1, "GPU_COUNT": len(data.splitlines())}


PLANS_OWN = """\
# ==========================================
# GPU & AI SERVICES CONFIGURATION
# ==========================================
GPU_ENABLE=false
GPU_VRAM_DEFAULT=8g
# a note
MINE=1
OLLAMA_MEMORY_LIMIT=1g

# something about what follows
NEXT=2
# ==========================================
# DATABASE
# ==========================================
OLLAMA_HOST=elsewhere
PASSWORD=x
"""


def test_a_block_without_an_end_line_ends_with_its_last_variable() -> None:
    done = update(PLANS_OWN.encode(), "8g").decode()
    after = PLANS_OWN[PLANS_OWN.index("\n# something about") :]
    assert done.endswith(END + "\n" + after)
    values = parse(done.removesuffix(after).splitlines())
    assert (values["GPU_ENABLE"], values["MINE"]) == ("false", "1")
    assert update(done.encode(), "8g").decode() == done


@each(
    "data",
    [
        "{block}{other block}",
        "{block}A=1\n{end}\n",
        "{end}\n{block without end}",
        "A=1\n{end}\n",
    ],
)
def test_unclear_block_markers_are_refused(data: str) -> None:
    blocks = {
        "block": block("8g"),
        "other block": block("16g"),
        "block without end": block("8g").removesuffix(END + "\n"),
    }
    with pytest.raises(BlockError, match="line"):
        update(data.format(end=END, **blocks).encode(), "8g")


def test_kept_lines_are_written_unchanged() -> None:
    text = render_block(text_of("8g"), kept=KeptParts(raw={"OLLAMA_URL": "'a b'"}, lines=["X=1"]))
    assert "\nOLLAMA_URL='a b'\n" in text
    assert text.endswith(f"X=1\n\n{END}\n")


# ── from earlier versions ──
def test_renamed_variables_keep_their_value_and_retired_ones_are_removed() -> None:
    old = block("8g").replace("OLLAMA_URL=http://ollama:11434", "OLLAMA_HOST=http://nas.lan:11434")
    old = old.replace("GPU_COUNT=1\n", "GPU_COUNT=1\nOLLAMA_GPU_OVERHEAD=53477376\nIMMICH_MODEL_CACHE_DIR=./cache\n")
    new = update(old.encode(), "8g").decode()
    assert new == block("8g").replace("OLLAMA_URL=http://ollama:11434", "OLLAMA_URL=http://nas.lan:11434")


@each(
    ("line", "new"),
    [
        ("OLLAMA_IMAGE=ollama/ollama:0.34.2", "#OLLAMA_IMAGE=ollama/ollama:0.34.2"),
        ('OLLAMA_IMAGE="ollama/ollama:0.34.2"', "#OLLAMA_IMAGE=ollama/ollama:0.34.2"),
        ("OLLAMA_IMAGE=ollama/ollama:0.9.6", "OLLAMA_IMAGE=ollama/ollama:0.9.6"),
        ("COMFYUI_IMAGE_CPU=yanwk/comfyui-boot:cpu", "#COMFYUI_IMAGE_CPU=yanwk/comfyui-boot:cpu-20260914"),
        ("IMMICH_ML_OFFLINE=0", "IMMICH_ML_OFFLINE=1"),
        ("OPEN_WEBUI_PORT=3000", "OPEN_WEBUI_PORT=3000"),
    ],
)
def test_a_default_of_an_earlier_block_is_updated(line: str, new: str) -> None:
    name = line.partition("=")[0]
    old = re.sub(rf"^#?{name}=.*$", line, block("8g"), flags=re.MULTILINE)
    assert f"\n{new}\n" in update(old.encode(), "8g").decode()


# ── the card ──
def with_card(compute: tuple[int, int] | None) -> TierText:
    return replace(text_of("8g"), card=card_values(compute))


@each(
    ("compute", "torch", "whisperx", "comfyui"),
    [
        ((6, 1), "#TORCH_BUILD=cuda", "#WHISPERX_IMAGE=learnedmachine/whisperx-asr-service:0.4.1", "cu126-slim"),
        ((8, 6), "#TORCH_BUILD=cuda", "#WHISPERX_IMAGE=learnedmachine/whisperx-asr-service:0.4.1", "cu130-slim-v2"),
        (
            (12, 0),
            "TORCH_BUILD=cu128",
            "WHISPERX_IMAGE=learnedmachine/whisperx-asr-service:0.4.1-blackwell",
            "cu130-slim-v2",
        ),
        (None, "#TORCH_BUILD=cuda", "#WHISPERX_IMAGE=learnedmachine/whisperx-asr-service:0.4.1", "cu130-slim-v2"),
    ],
)
def test_the_card_chooses_images_that_have_code_for_it(
    compute: tuple[int, int] | None, torch: str, whisperx: str, comfyui: str
) -> None:
    lines = render_block(with_card(compute)).splitlines()
    assert {torch, whisperx} <= set(lines)
    assert any(re.match(rf"#?COMFYUI_IMAGE=yanwk/comfyui-boot:{comfyui}-\d{{8}}$", line) for line in lines)


def test_another_card_changes_only_the_values_chosen_by_the_card() -> None:
    blackwell = update_block(b"", with_card((12, 0))).data
    assert update_block(blackwell, with_card((8, 9))).data == update_block(b"", with_card((8, 9))).data
    assert update_block(blackwell, with_card(None)).data == blackwell, "no card was found, so the choice stays"
    mine = blackwell.replace(b"service:0.4.1-blackwell", b"service:mine")
    assert b"\nWHISPERX_IMAGE=learnedmachine/whisperx-asr-service:mine\n" in update_block(mine, with_card((8, 9))).data
    assert update_block(mine, with_card((12, 0))).data == mine


# ── RAM and VRAM of Ollama ──
@each("tier", TIERS)
def test_the_prompt_caches_of_all_loaded_models_fit_into_ram_with_the_models(tier: str) -> None:
    ollama = next(service for service in shipped(tier).services if service.name == "ollama")
    assert ollama.memory is not None
    assert ollama.vram is not None
    values = tier_values(shipped(tier))
    caches = int(values["LLAMA_ARG_CACHE_RAM"]) * int(DEFAULTS["OLLAMA_MAX_LOADED_MODELS"]) * 2**20
    assert 0 < caches <= (ollama.memory - ollama.vram) / 2
    assert int(values["LLAMA_ARG_FIT_TARGET"]) >= 256


@each(
    ("service", "cache"),
    [("{vram: 4GiB, memory: 4g}", "0"), ("{vram: 2GiB, memory: 4g}", "512"), ("{vram: 1GiB}", "224")],
)
def test_a_container_without_room_for_prompts_keeps_none(service: str, cache: str) -> None:
    manifest = load_manifest(f"version: 1\nvram: 16GiB\nservices:\n  ollama: {service}\nmodels: []\n")
    assert tier_values(manifest)["LLAMA_ARG_CACHE_RAM"] == cache


@each(
    ("model", "family"),
    [
        ("nomic-embed-text", None),
        ("mxbai-embed-large", None),
        ("embeddinggemma:300m", "gemma3"),
        ("me/qwen3-embedding:0.6b", "qwen3"),
    ],
)
def test_an_embedding_model_that_privategpt_refuses_is_known(model: str, family: str | None) -> None:
    models = f'[{{name: e, source: "ollama://{model}", for: [ollama]}}]'
    problem = unsupported_embedder(tier_values(load_manifest(f"version: 1\nmodels: {models}\n")))
    assert (family is None) is (problem is None)
    assert family is None or (problem is not None and f"its family is {family}," in problem)
