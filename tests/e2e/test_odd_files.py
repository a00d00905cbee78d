"""No command hangs or reports a bug, whatever replaces a file that modelfetch reads.

Each file below ROOT/.modelfetch, each placed file, manifest and credential file is replaced by each oddity in turn.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.odd_files import ODDITIES

TREE = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("oddity", ODDITIES)
def test_no_command_hangs_or_reports_a_bug(tmp_path: Path, oddity: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.e2e.odd_files", str(tmp_path / "odd"), oddity],
        cwd=TREE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert ended.stdout == ""
    assert ended.stderr.count("\n") > 100, "every command was run"
