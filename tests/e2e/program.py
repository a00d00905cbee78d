"""The program under test: the console script of the built wheel, in an environment that holds nothing else."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tests.e2e.servers import plain_environment, user_prefix

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

OTHER_USER = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Modelfetch:
    """`modelfetch` as a newcomer has it: installed from the wheel, run in the folder ``cwd``.

    ``environment`` is added to a bare one; ``prefix`` is put before the command (to be another user, for one).
    """

    script: Path
    cwd: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()

    @property
    def root(self) -> Path:
        """The default root."""
        return self.cwd / "files" / "ai-models"

    def as_user(self, uid: int) -> Modelfetch:
        """The same, run by another user where this process may change its own; else by this process's user."""
        return replace(self, prefix=user_prefix(uid))

    def with_environment(self, **more: str) -> Modelfetch:
        """The same with more environment variables."""
        return replace(self, environment={**self.environment, **more})

    def start(self, *arguments: str, **streams: Any) -> subprocess.Popen[str]:
        """Start the program and return at once."""
        home = self.cwd / "home"
        home.mkdir(exist_ok=True)
        return subprocess.Popen(
            [*self.prefix, str(self.script), *arguments],
            cwd=self.cwd,
            env=plain_environment(home, **self.environment),
            stdin=subprocess.DEVNULL,
            text=True,
            **streams,
        )

    def run(self, *arguments: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Run the program to its end, whatever that is."""
        with self.start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                output, errors = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def report(self, *arguments: str, exit_code: int = 0) -> dict[str, Any]:
        """Run the program with `--json`, check its exit code, and return its report."""
        done = self.run(*arguments, "--json")
        assert done.returncode == exit_code, f"{arguments} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return dict(json.loads(done.stdout))
