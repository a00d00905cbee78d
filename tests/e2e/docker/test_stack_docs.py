"""The commands of the setup page, one after the other, as somebody types them into a shell."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.docker.stack import settings_for, write_tier
from tests.e2e.peers import REPOSITORY

if TYPE_CHECKING:
    from tests.e2e.docker.hub import HubProcess
    from tests.e2e.docker.stack import Stack

SETUP = REPOSITORY / "docs" / "ai-services-setup.md"
NEEDS = ("# needs a GPU\n", "# needs the internet\n")


def blocks(page: Path) -> list[str]:
    """Every block of shell commands."""
    return re.findall(r"^```bash\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def test_the_commands_of_the_setup_page_work(new_stack: Stack, hub: HubProcess) -> None:
    write_tier(new_stack.folder, hub.ask("manifests"), name="16g")
    (new_stack.folder / ".env").unlink()
    environment = {
        **new_stack.engine.environment,
        # What a shell has set wins over `.env`: so the page may copy and rewrite that file as it likes.
        **settings_for(hub),
        "PATH": f"{Path(sys.executable).parent}:{new_stack.engine.environment['PATH']}",
    }
    runnable = [block for block in blocks(SETUP) if not block.startswith(NEEDS)]
    assert len(runnable) > 10
    for block in runnable:
        done = subprocess.run(
            new_stack.engine.inside("bash", "-euo", "pipefail", "-c", block),
            cwd=new_stack.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{block}\nended with {done.returncode}:\n{done.stdout}"
    assert new_stack.services() == {}
    assert (new_stack.root / "ollama").is_dir()
