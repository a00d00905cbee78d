"""The manual page is the help of today, and roff takes it without a warning."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.docs_man import TARGET, page


def test_the_manual_page_is_current() -> None:
    assert TARGET.read_text() == page(), "run: make man"


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_roff_takes_it_without_a_warning() -> None:
    done = subprocess.run(["groff", "-man", "-ww", "-Tascii", "-z", TARGET], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_line_is_ascii_and_no_text_is_taken_for_a_request() -> None:
    text = TARGET.read_text()
    assert text.isascii()
    requests = {line.split()[0] for line in text.splitlines() if line.startswith((".", "'"))}
    assert requests == {".TH", ".SH", ".SS", ".PP", ".TP", ".nf", ".fi"}
