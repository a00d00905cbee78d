"""The forked processes of `tests.interpreter` are complete ones."""

from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.interpreter import Process, run

if TYPE_CHECKING:
    from pathlib import Path


def test_a_program_has_its_own_arguments_environment_folder_and_streams(tmp_path: Path) -> None:
    code = "import os, sys; print(sys.argv, os.environ, os.getcwd()); print('é', file=sys.stderr); sys.exit(3)"
    done = run("-c", code, "x", env={"A": "b"}, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (3, "é\n")
    assert done.stdout == f"['-c', 'x'] environ({{'A': 'b'}}) {tmp_path}\n"


def test_a_module_is_the_main_program(tmp_path: Path) -> None:
    done = run("-m", "modelfetch", "validate", "none.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith("error: none.yaml: ")


def test_exit_codes_are_those_of_python() -> None:
    code = "import atexit, threading, time; atexit.register(print, 'end')\n"
    code += "threading.Thread(target=lambda: (time.sleep(0.05), print('thread'))).start()"
    assert run("-c", code).stdout == "thread\nend\n"
    failed = run("-c", "1 / 0")
    assert failed.returncode == 1
    assert failed.stderr.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_signal_ends_the_program(number: int) -> None:
    with Process("-c", "import time; time.sleep(60)") as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        assert process.poll() is None
        process.send_signal(number)
        assert process.communicate() == ("", "")
        assert process.returncode == -number
