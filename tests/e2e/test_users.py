"""Other users than root, and roots that can't be written: what containers and network shares make of a stack."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.e2e.program import OTHER_USER
from tests.e2e.tree import contents, copy_tree

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.program import Modelfetch

CHOICE = ("sync", "--tier", "demo")

READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && cd "$1" && shift && exec "$@"'


def given_to_other_user(program: Modelfetch) -> Modelfetch:
    """The program run by another user, who owns its folder."""
    if os.geteuid() == 0:
        os.chown(program.cwd, OTHER_USER, OTHER_USER)
    (program.cwd / "home").mkdir()
    if os.geteuid() == 0:
        os.chown(program.cwd / "home", OTHER_USER, OTHER_USER)
    return program.as_user(OTHER_USER)


def assert_nothing_to_do(program: Modelfetch) -> None:
    """A sync finds everything in place, sends no request, and changes nothing."""
    before = contents(program.root)
    report = program.report(*CHOICE)
    assert report["ok"]
    assert (report["requests"], report["errors"]) == (0, [])
    assert contents(program.root) == before


def test_sync_works_as_a_user_who_is_not_root(modelfetch: Modelfetch) -> None:
    program = given_to_other_user(modelfetch)
    program.report(*CHOICE)
    owners = {path.lstat().st_uid for path in program.root.rglob("*")}
    assert owners == {OTHER_USER if os.geteuid() == 0 else os.geteuid()}
    assert_nothing_to_do(program)


def test_a_complete_root_without_write_permission_is_enough(modelfetch: Modelfetch) -> None:
    program = given_to_other_user(modelfetch)
    program.report(*CHOICE)
    subprocess.run(["chmod", "-R", "a-w", str(program.root)], check=True)
    assert_nothing_to_do(program)


def test_files_of_another_user_are_used(modelfetch: Modelfetch) -> None:
    modelfetch.report(*CHOICE)
    assert_nothing_to_do(given_to_other_user_home(modelfetch))


def test_a_complete_root_mounted_read_only_is_enough(modelfetch: Modelfetch) -> None:
    modelfetch.report(*CHOICE)
    own = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--map-root-user", "--mount")
    prefix = (*own, "--", "sh", "-c", READ_ONLY, str(modelfetch.root), str(modelfetch.cwd))
    assert_nothing_to_do(replace(modelfetch, prefix=prefix))


def test_a_copy_of_a_complete_root_is_complete(modelfetch: Modelfetch, workplace: Path) -> None:
    modelfetch.report(*CHOICE)
    copy_tree(modelfetch.root, workplace / "copy")
    report = modelfetch.report(*CHOICE, "--root", str(workplace / "copy"))
    assert (report["requests"], report["bytes_fetched"]) == (0, 0)


def given_to_other_user_home(program: Modelfetch) -> Modelfetch:
    """The program run by another user, who owns nothing of it but a home."""
    other = replace(program, cwd=program.cwd).as_user(OTHER_USER)
    if os.geteuid() == 0:
        os.chown(program.cwd / "home", OTHER_USER, OTHER_USER)
    return other
