"""`sync` where few processes, threads or little memory are allowed: it succeeds, or names the limit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.e2e.memory_limit import process_limit
from tests.e2e.program import OTHER_USER

if TYPE_CHECKING:
    from tests.e2e.program import Modelfetch

MIB = 2**20


def verdict(modelfetch: Modelfetch) -> tuple[int, str]:
    """The exit code of `sync`, and the message of its error, after a check that they agree with each other."""
    done = modelfetch.run("sync", "--tier", "demo", seconds=60)
    placed = "15 models verified and in place" in done.stderr
    assert placed is (done.returncode == 0), done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize("count", [2, 12])
def test_a_low_process_limit_is_enough_or_named_in_the_error(modelfetch: Modelfetch, count: int) -> None:
    with process_limit(count) as group:
        code, text = verdict(replace(modelfetch, prefix=tuple(group.command())))
    assert code == 0 or (code == 75 and f"pids.max is {count}" in text)


@pytest.mark.parametrize("count", [2, 8])
def test_a_low_process_limit_of_the_user_is_enough_or_named_in_the_error(modelfetch: Modelfetch, count: int) -> None:
    modelfetch.cwd.chmod(0o777)
    other = modelfetch.as_user(OTHER_USER)
    limit = ("prlimit", f"--nproc={count}", "--")
    code, text = verdict(replace(other, prefix=(*other.prefix, *limit)))
    assert code == 0 or (code == 75 and f"RLIMIT_NPROC is {count}" in text)


@pytest.mark.parametrize(("kind", "mib"), [("as", 250), ("as", 390), ("as", 400), ("data", 160)])
def test_little_memory_is_enough(modelfetch: Modelfetch, kind: str, mib: int) -> None:
    code, _ = verdict(replace(modelfetch, prefix=("prlimit", f"--{kind}={mib * MIB}", "--")))
    assert code == 0


@pytest.mark.parametrize("mib", [40, 60, 120])
def test_less_address_space_than_the_minimum_is_refused(modelfetch: Modelfetch, mib: int) -> None:
    code, text = verdict(replace(modelfetch, prefix=("prlimit", f"--as={mib * MIB}", "--")))
    assert (code, "it needs at least" in text) == (75, True)


@pytest.mark.parametrize("count", [5, 6, 31])
def test_fewer_open_files_than_the_minimum_are_refused(modelfetch: Modelfetch, count: int) -> None:
    code, text = verdict(replace(modelfetch, prefix=("prlimit", f"--nofile={count}", "--")))
    assert (code, f"RLIMIT_NOFILE is {count}" in text) == (75, True)


@pytest.mark.parametrize(("kind", "mib"), [("as", 140), ("data", 70), ("data", 100)])
def test_too_little_memory_ends_in_an_error(modelfetch: Modelfetch, kind: str, mib: int) -> None:
    limited = replace(modelfetch, prefix=("prlimit", f"--{kind}={mib * MIB}", "--"))
    done = limited.run("sync", "--tier", "demo", seconds=60)
    assert done.returncode in (0, 69, 75), done.stderr  # 69: the demo's own server lacks memory
    assert "Traceback" not in done.stderr
