"""Type checkers accept right calls of the Python API and refuse a wrong name or type."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.e2e.cache import ENVIRONMENT, build_once
from tests.e2e.peers import REPOSITORY, make_environment

PYRIGHT = "1.1.414"

SNIPPETS = """
import modelfetch
from modelfetch import Cancel, Event, FitReport, OptionValues, Report

def show(event: Event) -> None: ...

common: OptionValues = {"root": "files/ai-models", "consumers": ["comfyui"], "limit_rate": "50MB"}
report: Report = modelfetch.sync(tier="16g", progress=show, cancel=Cancel(), **common)
modelfetch.plan(manifest=["a.yaml", "b.yaml"], jobs=2, chown=(1000, 1000), lock_timeout=5)
modelfetch.status(manifest="a.yaml", store=None, offline=True)
modelfetch.pin("a.yaml", check=True, upgrade=["vae"], progress=True)
fits: FitReport = modelfetch.fit("ollama://llama3.2", context=4096, usable="15GiB")
path: str = modelfetch.retrieve("https://models.example/x.safetensors", progress=lambda event: None).name

async def main() -> Report:
    await modelfetch.plan_async(tier="8g")
    return await modelfetch.sync_async(tier="8g", refresh=True)
"""

WRONG = [
    'modelfetch.sync(tier="8g", colour="blue")',
    'modelfetch.sync(tier="8g", jobs="many")',
    "modelfetch.sync(tier=8)",
    'modelfetch.plan(tier="8g", progress="bar")',
    'modelfetch.status(tier="8g", dry_run=True)',
    'modelfetch.pin("a.yaml", root="x")',
    'modelfetch.fit("u", context="4k")',
    'modelfetch.retrieve("u", consumers=["comfyui"])',
    'modelfetch.sync(tier="8g", cancel=True)',
    "modelfetch.remove(5)",
    "modelfetch.adopt(5)",
    'modelfetch.add("u", choose=True)',
    "modelfetch.frobnicate()",
]


FIRST = SNIPPETS.count("\n") + 1
EXPECTED = set(range(FIRST, FIRST + len(WRONG)))


def write(folder: Path) -> Path:
    file = folder / "snippet.py"
    file.write_text(SNIPPETS + "".join(f"{line}\n" for line in WRONG))
    return file


def test_mypy_accepts_right_calls_and_refuses_wrong_ones(tmp_path: Path) -> None:
    file = write(tmp_path)
    guide = tmp_path / "guide.py"
    text = (REPOSITORY / "docs/guides/python.md").read_text()
    guide.write_text("".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent", str(file), str(guide)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    refused = {int(line) for line in re.findall(r"snippet\.py:(\d+): error", done.stdout)}
    assert refused == EXPECTED, done.stdout + done.stderr
    assert "guide.py" not in done.stdout, done.stdout


def test_pyright_accepts_right_calls_and_refuses_wrong_ones(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        make_environment(Path(sys.executable), folder, f"pyright=={PYRIGHT}")

    python = build_once(f"pyright-{PYRIGHT}", build) / "bin" / "python"
    file = write(tmp_path)
    (tmp_path / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": "strict", "extraPaths": [str(REPOSITORY)], "reportMissingTypeStubs": False})
    )
    done = subprocess.run(
        [python, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", tmp_path],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=ENVIRONMENT,
    )
    found = json.loads(done.stdout)["generalDiagnostics"]
    errors = [one for one in found if one["severity"] == "error" and one["file"] == str(file)]
    refused = {one["range"]["start"]["line"] + 1 for one in errors}
    assert refused == EXPECTED, errors
