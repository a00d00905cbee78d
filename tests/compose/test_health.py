"""The health checks of the services."""

from __future__ import annotations

import http.server
import runpy
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from tests.cases import each
from tests.compose.compose_files import REPOSITORY
from tests.compose.expected import ENDING, GPU_SERVICES, binds, every

if TYPE_CHECKING:
    from pathlib import Path


def test_every_service_has_a_health_check_but_those_that_end() -> None:
    assert {name for name, body in every().items() if not body.get("healthcheck", {}).get("test")} == ENDING


@each("service", GPU_SERVICES)
def test_a_gpu_service_is_unhealthy_when_it_has_lost_the_gpu(service: str) -> None:
    kind, program, script, *target = every()[service]["healthcheck"]["test"]
    assert (kind, program, script) == ("CMD", "python3", "/usr/local/bin/stack-health")
    assert len(target) == 1
    assert ("./compose/stack-health.py", script) in binds(every()[service])


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
