from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfetch.manifest.paste import from_paste
from modelfetch.manifest.uri import HttpUri, parse_uri
from tests.cases import each
from tests.examples import any_text
from tests.manifest.helpers import COMMIT


@each("site", ["https://huggingface.co", "https://hf.co", "huggingface.co", "HTTPS://HuggingFace.co"])
@each(
    ("path", "uri"),
    [
        ("/ns/repo", "hf://ns/repo"),
        ("/ns/repo/", "hf://ns/repo"),
        ("/ns/repo?library=transformers", "hf://ns/repo"),
        ("/ns/repo?show_file_info=a%2Fb.gguf", "hf://ns/repo/a/b.gguf"),
        ("/ns/repo#usage", "hf://ns/repo"),
        ("/ns/repo/tree/main", "hf://ns/repo"),
        ("/ns/repo/tree/v1", "hf://ns/repo@v1"),
        ("/ns/repo/tree/v1?show_file_info=a.gguf", "hf://ns/repo@v1/a.gguf"),
        ("/ns/repo/tree/main/a?show_file_info=a%2Fb.gguf", "hf://ns/repo/a/b.gguf"),
        ("/ns/repo/blame/main/a.gguf", "hf://ns/repo/a.gguf"),
        ("/ns/repo/commits/main/a.gguf", "hf://ns/repo/a.gguf"),
        ("/ns/repo.git", "hf://ns/repo"),
        (f"/ns/repo/commit/{COMMIT}", f"hf://ns/repo@{COMMIT}"),
        ("/ns/repo/blob/main/a/b.safetensors", "hf://ns/repo/a/b.safetensors"),
        ("/ns/repo/raw/main/config.json", "hf://ns/repo/config.json"),
        ("/ns/repo/resolve/main/a.gguf?download=true", "hf://ns/repo/a.gguf"),
        (f"/ns/repo/resolve/{COMMIT}/a.gguf", f"hf://ns/repo@{COMMIT}/a.gguf"),
        ("/ns/repo/blob/refs%2Fpr%2F1/a.gguf", "hf://ns/repo@refs%2Fpr%2F1/a.gguf"),
        ("/ns/repo/blob/refs/pr/1/a.gguf", "hf://ns/repo@refs/pr/1/a.gguf"),
        ("/ns/repo/resolve/main/a%20b.gguf", "hf://ns/repo/a%20b.gguf"),
        ("/ns/repo/resolve/main/a.gguf?token=SECRET", "hf://ns/repo/a.gguf"),
    ],
)
def test_pages_and_files_of_the_hub_become_its_uris(site: str, path: str, uri: str) -> None:
    assert from_paste(site + path) == uri
    parse_uri(uri)


@each(
    ("text", "uri"),
    [
        ("hf.co/ns/repo:Q4_K_M", "ollama://hf.co/ns/repo:Q4_K_M"),
        ("https://hf.co/ns/repo:Q4_K_M", "ollama://hf.co/ns/repo:Q4_K_M"),
        ("huggingface.co/ns/repo:latest", "ollama://huggingface.co/ns/repo:latest"),
        ("ollama run hf.co/ns/repo:Q4_K_M", "ollama://hf.co/ns/repo:Q4_K_M"),
        ("ollama run llama3.2:3b", "ollama://llama3.2:3b"),
        ("$ ollama pull ns/model", "ollama://ns/model"),
        ("ollama run llama3.2:3b --verbose", "ollama://llama3.2:3b"),
        ('ollama run llama3.2:3b "Why is the sky blue?"', "ollama://llama3.2:3b"),
        ("ollama run https://hf.co/ns/repo:Q8_0", "ollama://hf.co/ns/repo:Q8_0"),
        ("docker exec -it ollama ollama run llama3.2", "ollama://llama3.2"),
        ('"llama3.2:3b"', "ollama://llama3.2:3b"),
        ("llama3.2:3b", "ollama://llama3.2:3b"),
        ("mxbai/embed:v1", "ollama://mxbai/embed:v1"),
        ("https://ollama.com/library/llama3.2", "ollama://llama3.2"),
        ("https://ollama.com/library/llama3.2:3b", "ollama://llama3.2:3b"),
        ("ollama.com/mxbai/embed", "ollama://mxbai/embed"),
        ("https://registry.ollama.ai/v2/library/llama3.2/manifests/3b", "ollama://llama3.2:3b"),
        ("registry.ollama.ai/library/llama3.2:3b", "ollama://llama3.2:3b"),
        ("hf download ns/repo a/b.gguf", "hf://ns/repo/a/b.gguf"),
        ("hf download ns/repo a.gguf --local-dir . --token SECRET", "hf://ns/repo/a.gguf"),
        ("hf download --revision refs/pr/1 ns/repo", "hf://ns/repo@refs%2Fpr%2F1"),
        ("huggingface-cli download --resume-download ns/repo", "hf://ns/repo"),
        ("<https://hf.co/ns/repo>", "hf://ns/repo"),
        ("https://github.com/o/r/blob/main/a/b.pth", "https://github.com/o/r/raw/main/a/b.pth"),
        ("https://github.com/o/r/blob/main/a.pth?raw=true", "https://github.com/o/r/raw/main/a.pth"),
        (
            "https://github.com/o/r/releases/download/v1/a.pth",
            "https://github.com/o/r/releases/download/v1/a.pth",
        ),
        ("  https://h.example/a.bin\n", "https://h.example/a.bin"),
        ("hf://ns/repo/a.bin", "hf://ns/repo/a.bin"),
        ("https://civitai.com/api/download/models/7?Type=VAE&Format=Other", "civitai://7?type=VAE&format=Other"),
        ("https://civitai.com/api/download/models/7?type=VAE&amp;fp=fp16", "civitai://7?type=VAE&fp=fp16"),
        ("https://civitai.com/api/download/models/7?FileID=9", "civitai://7?fileId=9"),
        ("https://civitai.com/models/1?modelversionid=7", "civitai://7"),
        ("https://civitai.com./api/download/models/7", "civitai://7"),
        ("https://huggingface.co./a/b/blob/main/c.gguf", "hf://a/b/c.gguf"),
        ("urn:air:sdxl:lora:civitai:1@2", "urn:air:sdxl:lora:civitai:1@2"),
        ("air:sdxl:lora:civitai:1@2", "urn:air:sdxl:lora:civitai:1@2"),
        ("civitai: 12345 @ 67890", "civitai://67890"),
        ("civitai:12345@67890", "civitai://67890"),
        ("civitai://12345@67890", "civitai://67890"),
    ],
)
def test_other_forms_of_pasted_addresses(text: str, uri: str) -> None:
    assert from_paste(text) == uri
    assert parse_uri(text).text == uri


@each(
    ("text", "uri"),
    [("llama3.2", "ollama://llama3.2"), ("hf.co/ns/repo", "ollama://hf.co/ns/repo"), ("a:1", "ollama://a:1")],
)
def test_a_bare_name_is_a_model_where_only_ollamas_are_meant(text: str, uri: str) -> None:
    assert from_paste(text, ollama=True) == uri


@each("text", ["example:8080", "localhost:5000", "https:x", "data:x", "hf:a", "C:\\x", "a/b/c:d", "x"])
def test_an_ambiguous_word_is_not_taken_for_an_ollama_model(text: str) -> None:
    assert from_paste(text) == text


@each(
    ("text", "line"),
    [
        ("https://huggingface.co/ns/repo/tree/main/vae", 'include: ["vae/*"]'),
        ("https://huggingface.co/ns/repo/discussions/3", "hf://ns/repo"),
        ("https://huggingface.co/datasets/ns/data", "models only"),
        ("https://civitai.com/models/4384", "civitai://N"),
        ("https://civitai.com/models/4384/dreamshaper?tab=x", "modelVersionId"),
        ("https://ollama.com/library/llama3.2/tags", "ollama://llama3.2:TAG"),
        ("https://github.com/o/r", "https://github.com/o/r/releases/download/TAG/FILE"),
        ("https://github.com/o/r/releases/tag/v1", "https://github.com/o/r/releases/download/v1/FILE"),
        ("https://github.com/o/r/releases/latest", "https://github.com/o/r/releases/latest/download/FILE"),
        ("https://github.com/o/r/tree/main/x", "https://github.com/o/r/raw/main/x/FILE"),
        ("https://ollama.com/ns/model/tags", "ollama://ns/model:TAG"),
        ("https://ollama.com/library/llama3.2:3b/blobs/abc", "ollama://llama3.2:3b"),
        ("https://huggingface.co/gpt2/resolve/main/model.safetensors", "hf://NS/gpt2/model.safetensors"),
        ("https://huggingface.co/stabilityai", "hf://NS/REPO/FILE"),
        ("hf.co/collections/a/b-1", "hf://NS/REPO/FILE"),
        ("https://huggingface.co/models?search=x.bin", "hf://NS/REPO/FILE"),
        ("https://huggingface.co", "hf://NS/REPO/FILE"),
        ("https://ollama.com/search?q=llama", "ollama://NAME:TAG"),
        ("ollama.com/llama3", "ollama://NAME:TAG"),
        ("https://registry.ollama.ai/library", "ollama://NAME:TAG"),
        ("https://civitai.com/user/x", "civitai://VERSION_ID"),
        ("https://civitai.red/images/12", "civitai://VERSION_ID"),
        ("https://github.com/o", "https://github.com/OWNER/REPO/releases/download/TAG/FILE"),
        ("ns/repo", "hf://ns/repo"),
        ("llama3.2", "ollama://llama3.2"),
        ("/srv/my models/x.gguf", "spaces"),
        ("/srv/x.gguf", "file:///srv/x.gguf"),
        ("ollama run --format json a", "ollama://NAME[:TAG]"),
        ("hf download ns/repo --include x", "hf://ns/repo or hf://ns/repo/FILE"),
        ("hf download ns/repo a b --revision v1", "hf://ns/repo@v1/a and hf://ns/repo@v1/b"),
        ("wget -c https://hf.co/ns/repo/resolve/main/a.gguf -O x", "write hf://ns/repo/a.gguf"),
        ("git clone https://huggingface.co/ns/repo", "write hf://ns/repo"),
    ],
)
def test_an_incomplete_address_is_refused_with_the_line_to_write(text: str, line: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        parse_uri(text)
    assert line in str(caught.value)


@each(
    "text",
    [
        "https://huggingface.co.evil.example/ns/repo",
        "https://evilhf.co/ns/repo",
        "https://huggingface.co:8443/ns/repo/resolve/main/x",
        "https://huggingface.co/api/models/ns/repo",
        "https://huggingface.co/avatar.png",
        "https://ollama.com/install.sh",
        "https://ollama.com/download/ollama-linux-amd64",
        "https://registry.ollama.ai/v2/library/x/blobs/sha256:0",
        "https://github.com/user-attachments/files/1/x",
        "https://github.com/o/r/releases/download/v1/x",
        "https://civitai.com.evil.example/api/download/models/1",
        "https://cdn-lfs.hf.co/x/y",
        "https://raw.githubusercontent.com/o/r/main/x.bin",
    ],
)
def test_addresses_of_other_hosts_and_ports_are_unchanged(text: str) -> None:
    assert isinstance(parse_uri(text), HttpUri)


@each(
    "command",
    [
        "hf download ns/repo --include x --token SECRET",
        "curl -LO https://civitai.com/api/download/models/1?token=SECRET",
        "models.example.com/a.gguf?token=SECRET",
    ],
)
def test_a_refused_text_is_not_repeated_with_its_token(command: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        parse_uri(command)
    assert "SECRET" not in str(caught.value)


STARTS = ["https://huggingface.co/", "https://civitai.com/", "ollama.com/", "github.com/", "ollama run ", ""]


def _refusal(text: str) -> str:
    try:
        return "" if parse_uri(parse_uri(text).text) == parse_uri(text) else "it changes"
    except ValueError as error:
        return str(error)


@given(st.sampled_from(STARTS), any_text(max_size=40) | st.text("ab1/:.?#=&%-_ ", max_size=40))
def test_any_text_is_converted_once_or_refused_on_one_line(start: str, rest: str) -> None:
    refusal = _refusal(start + rest)
    assert not refusal or ("expected" in refusal and "\n" not in refusal)
