"""Receipts and journals are read once, written rarely, and survive kills."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelfetch.core.digest import Digest
from modelfetch.errors import DestinationError
from modelfetch.placement import PlacementRequest, journal, receipts
from modelfetch.placement.journal import Claim
from modelfetch.placement.receipts import Entry, ReceiptBook, read_receipt, write_receipt
from modelfetch.store.locks.lock import LockLostError
from tests.damage import odd_documents
from tests.examples import examples
from tests.placement.world import SMALL, World

if TYPE_CHECKING:
    from pathlib import Path

ONE, TWO = (f"sha256:{number:064}" for number in (1, 2))
PATH = "comfyui/models/vae/a.bin"


@pytest.mark.parametrize("models", [40, 80])
def test_a_run_of_many_models_reads_a_receipt_once_and_writes_it_once(
    world: World, monkeypatch: pytest.MonkeyPatch, models: int
) -> None:
    jobs = [world.job(f"comfyui/models/{number}.json", b"%d" % number) for number in range(models)]
    world.place(*jobs)
    counts = {"read": 0, "write": 0}

    def counted(name: str, call: Any) -> Any:
        def wrapped(*args: Any, **options: Any) -> Any:
            counts[name] += 1
            return call(*args, **options)

        return wrapped

    monkeypatch.setattr(receipts, "read_receipt", counted("read", read_receipt))
    monkeypatch.setattr(receipts, "write_receipt", counted("write", write_receipt))
    monkeypatch.setattr(receipts, "WRITE_EVERY", 3600.0)
    world.new_run()
    for number, job in enumerate(jobs):
        world.placer.place(PlacementRequest(consumer="comfyui", model=str(number), requested_by="16g", jobs=[job]))
    assert world.placer.finish() == {}
    assert counts == {"read": 1, "write": 1}
    assert world.receipt("comfyui/models/0.json").manifests == ("8g", "16g")


def open_book(root: Path) -> ReceiptBook:
    """The receipt of ComfyUI during a run whose files nobody changes."""
    return ReceiptBook(root, "comfyui", is_in_place=lambda *_: True)


def test_entries_written_by_another_process_are_kept(world: World) -> None:
    world.place(world.job(PATH, SMALL))
    book = open_book(world.root)
    entry = book.load().entries[PATH]
    world.place(world.job("comfyui/models/other.json", b"other"))
    book.add({"comfyui/models/mine.json": entry}, {})
    book.write(lambda: None)
    assert set(read_receipt(world.root, "comfyui").entries) == {
        PATH,
        "comfyui/models/other.json",
        "comfyui/models/mine.json",
    }


def test_nothing_is_written_once_the_lock_is_lost(world: World) -> None:
    world.place(world.job(PATH, SMALL))
    before = (world.root / ".modelfetch/receipts/comfyui.json").read_bytes()
    book = open_book(world.root)
    book.add({"comfyui/models/mine.json": book.load().entries[PATH]}, {})

    def lost() -> None:
        raise LockLostError("lock")

    with pytest.raises(LockLostError):
        book.write(lost)
    assert (world.root / ".modelfetch/receipts/comfyui.json").read_bytes() == before


def test_an_unreadable_receipt_of_another_user_is_an_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.place(world.job(PATH, SMALL))
    opened = os.open

    def closed(path: Any, *args: Any, **keys: Any) -> int:
        if str(path).endswith("comfyui.json"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **keys)

    monkeypatch.setattr(os, "open", closed)
    with pytest.raises(DestinationError) as refusal:
        read_receipt(world.root, "comfyui")
    assert refusal.value.code == "not-writable"


def test_a_journal_with_a_truncated_last_line_is_usable(tmp_path: Path) -> None:
    journal.append(tmp_path, "comfyui", {"a": Claim(digest=ONE), "b": Claim(digest=None, target="x")})
    with journal.path_of(tmp_path, "comfyui").open("ab") as file:
        file.write(b'{"path": "c", "dig')
    journal.append(tmp_path, "comfyui", {"d": Claim(digest=TWO, size=3, uri="u", model="m")})
    assert journal.read(tmp_path, "comfyui") == {
        "a": (Claim(digest=ONE),),
        "b": (Claim(digest=None, target="x"),),
        "d": (Claim(digest=TWO, size=3, uri="u", model="m"),),
    }


def test_a_journal_that_has_grown_is_shortened_to_the_newest_claims_of_each_path(tmp_path: Path) -> None:
    for number in range(1000):
        journal.append(tmp_path, "comfyui", {"a": Claim(digest=f"sha256:{number:064}")})
    before = journal.path_of(tmp_path, "comfyui").stat().st_size
    journal.compact(tmp_path, "comfyui", journal.read(tmp_path, "comfyui"), confirm=lambda: None)
    assert journal.path_of(tmp_path, "comfyui").stat().st_size < before / 100
    assert journal.read(tmp_path, "comfyui")["a"][-1] == Claim(digest=f"sha256:{999:064}")


def test_runs_that_are_killed_again_and_again_do_not_let_the_journal_grow(tmp_path: Path) -> None:
    """As those of a container that is restarted whenever it fails; a journal that grew too large was not read."""
    path = journal.path_of(tmp_path, "comfyui")
    for digest in (ONE, ONE, TWO, TWO, ONE):
        book = open_book(tmp_path)
        book.load()
        book.claim({"a": Claim(digest=digest), "b": Claim(digest=None, target="x")})
    assert [claim.digest for claim in journal.read(tmp_path, "comfyui")["a"]] == [ONE, TWO, ONE]
    assert len(path.read_bytes().splitlines()) == 4


ENTRY = {
    "digest": ONE,
    "size": 1,
    "mtime_ns": 2,
    "how": "copy",
    "made": True,
    "model": "m",
    "uri": "u",
    "manifests": ["t"],
}
ARTIFACT = {
    "uri": "u",
    "path": "a",
    "size": 1,
    "digest": ONE,
    "locations": [["u", "v"]],
    "cache_name": "c",
    "content": "",
}
RESOLVED = {"tier": "t", "model": "m", "revision": "r", "pinned": True, "artifacts": [ARTIFACT]}
RECEIPT = {"version": 1, "consumer": "comfyui", "placements": {"a": ENTRY}, "resolved": {"k": RESOLVED}}
CLAIM = {"path": "a", "digest": ONE, "target": None, "size": 3, "uri": "u", "model": "m"}


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(receipt=odd_documents(RECEIPT), claims=st.lists(odd_documents(CLAIM), max_size=2))
def test_damaged_receipts_and_claims_are_ignored(tmp_path: Path, receipt: Any, claims: list[Any]) -> None:
    files = receipts.receipt_path(tmp_path, "comfyui"), journal.path_of(tmp_path, "comfyui")
    for file, text in zip(files, (json.dumps(receipt), "\n".join(map(json.dumps, claims))), strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    found = read_receipt(tmp_path, "comfyui")
    write_receipt(
        tmp_path, found, confirm=lambda: None
    )  # what was read is of the right types, so it can be written and read again
    again = read_receipt(tmp_path, "comfyui")
    assert (again.entries, again.frozen) == (found.entries, found.frozen)
    for claim in (claim for known in found.claims.values() for claim in known):
        assert claim.digest is None or str(Digest.parse(claim.digest)) == claim.digest.lower()


def test_an_entry_of_this_run_is_dropped_once_another_process_has_changed_the_path(tmp_path: Path) -> None:
    """This one was suspended after it placed the file, and the other one has put back what was there before."""

    def entry(digit: str) -> Entry:
        return Entry(digest=f"sha256:{digit * 64}", size=1, mtime_ns=1, how="copy", made=True, model="m")

    first = open_book(tmp_path)
    first.add({"comfyui/a": entry("1"), "comfyui/b": entry("1")}, {})
    first.write(lambda: None)
    on_disk = {"comfyui/a": entry("1"), "comfyui/b": entry("2"), "comfyui/c": entry("2")}
    ours = ReceiptBook(tmp_path, "comfyui", is_in_place=lambda path, one: on_disk.get(path) == one)
    theirs = open_book(tmp_path)
    ours.load()
    ours.add({path: entry("2") for path in ("comfyui/a", "comfyui/b", "comfyui/c")}, {})
    theirs.load()
    theirs.add({"comfyui/d": entry("3")}, {})
    theirs.write(lambda: None)
    ours.write(lambda: None)
    assert ours.overwritten == {"comfyui/a"}
    assert read_receipt(tmp_path, "comfyui").entries == on_disk | {"comfyui/d": entry("3")}
    ours.add({"comfyui/a": entry("2")}, {})  # placed again
    assert ours.overwritten == set()


def test_the_manifests_that_another_process_added_to_an_entry_stay(tmp_path: Path) -> None:
    entry = Entry(digest=ONE, size=1, mtime_ns=1, how="copy", made=True, model="m", manifests=("16g",))
    ours, theirs = open_book(tmp_path), open_book(tmp_path)
    ours.load()
    ours.add({"comfyui/a": entry}, {})
    ours.write(lambda: None)
    theirs.load()
    theirs.add({"comfyui/a": replace(entry, manifests=("16g", "8g"))}, {})
    theirs.write(lambda: None)
    ours.add({"comfyui/b": entry}, {})
    ours.write(lambda: None)
    assert read_receipt(tmp_path, "comfyui").entries["comfyui/a"].manifests == ("16g", "8g")
