"""What list shows, and how it counts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.care.listing import Listing
from modelfetch.cli.app import run
from modelfetch.render.care import list_table
from tests.cases import first
from tests.damage import flip
from tests.pipeline.entries import WEIGHTS, ollama, read, vae, whisper

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.pipeline.conftest import Bench, Result

ONE, TWO = "stable-diffusion/models/VAE/art.safetensors", "comfyui/models/vae/art.safetensors"


def by_path(result: Result) -> dict[str, dict[str, Any]]:
    return {entry["path"]: entry for entry in result.report["entries"]}


def test_a_file_shared_by_two_services_counts_once(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench))
    result = care("list")
    assert result.code == 0
    assert list(result.report) == ["root", "store", "entries", "bytes", "reclaimable"]
    assert result.report["bytes"] == len(read(WEIGHTS))
    assert result.report["reclaimable"] == 0
    entry = by_path(result)[ONE]
    assert entry.pop("verified").endswith("Z")
    assert entry.pop("digest").startswith("sha256:")
    assert entry == {
        "model": "vae",
        "consumer": "stable-diffusion",
        "path": ONE,
        "size": len(read(WEIGHTS)),
        "origin": "made",
        "tiers": ["test"],
    }


def test_files_of_others_are_listed_as_foreign_and_kept_apart(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench))
    mine = bench.root / "comfyui/models/loras/mine.safetensors"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"m" * 1000)
    entry = by_path(care("list"))["comfyui/models/loras/mine.safetensors"]
    assert (entry["origin"], entry["model"], entry["tiers"], entry["digest"]) == ("foreign", None, [], None)


def test_everything_below_the_root_is_listed(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench))
    (bench.root / ONE).unlink()
    (bench.root / ONE).write_bytes(b"mine")
    bench.sync(vae(bench))  # moves it aside
    for name in ("stray.gguf", "other-service/deep/model.bin", "elsewhere/blobs/of-the-store"):
        (bench.root / name).parent.mkdir(parents=True, exist_ok=True)
        (bench.root / name).write_bytes(b"s" * 10)
    result = care("list", "--filter", "origin=foreign")
    (displaced,) = (bench.root / ".modelfetch/displaced").rglob("*.safetensors")
    names = {str(displaced.relative_to(bench.root)), "stray.gguf", "other-service/deep/model.bin"}
    assert set(by_path(result)) == {*names, "elsewhere/blobs/of-the-store"}
    assert {entry["consumer"] for entry in result.report["entries"]} == {None}
    assert result.report["bytes"] == 34
    assert set(by_path(care("list", "--store", str(bench.root / "elsewhere")))) >= names
    assert "elsewhere/blobs/of-the-store" not in by_path(care("list", "--store", str(bench.root / "elsewhere")))


def test_links_are_not_overdue_for_a_check(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(whisper(bench))
    assert any((bench.root / path).is_symlink() for path in by_path(care("list")) if path)
    assert care("list", "--filter", "verified>1d").report["entries"] == []


def test_a_placement_that_the_disk_lists_by_another_spelling_counts_once(
    bench: Bench, care: Callable[..., Result]
) -> None:
    """A link between two spellings of a folder stands in for a file system without upper and lower case."""
    bench.sync(vae(bench))
    folder = (bench.root / ONE).parent
    folder.rename(folder.with_name("vae"))
    folder.symlink_to("vae")
    other = folder / "OTHER.safetensors"
    other.write_bytes(b"m" * 1000)
    listed = by_path(care("list"))
    assert ONE in listed
    assert [path for path, entry in listed.items() if entry["origin"] == "foreign"] == [
        "stable-diffusion/models/vae/OTHER.safetensors"
    ]


def test_a_file_that_differs_from_a_placement_by_case_alone_is_foreign(
    bench: Bench, care: Callable[..., Result]
) -> None:
    bench.sync(vae(bench))
    upper = (bench.root / ONE).with_name("ART.safetensors")
    upper.write_bytes(b"m" * 1000)
    listed = by_path(care("list"))
    assert (listed[ONE]["origin"], listed[str(upper.relative_to(bench.root))]["origin"]) == ("made", "foreign")


def test_unused_blobs_and_old_partial_files_are_reclaimable(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench))
    for receipt in (bench.root / ".modelfetch/receipts").glob("*.json"):
        receipt.unlink()
    for path in (ONE, TWO):
        (bench.root / path).unlink()
    for blob in (bench.root / ".modelfetch/blobs/sha256").glob("??/" + "?" * 64):
        os.utime(blob, (1, 1))
    part = bench.root / ".modelfetch/ingest/abc.part"
    part.parent.mkdir(exist_ok=True)
    part.write_bytes(b"p" * 4096)
    assert care("list").report["reclaimable"] == len(read(WEIGHTS))
    os.utime(part, (1, 1))
    report = care("list").report
    assert report["reclaimable"] == len(read(WEIGHTS)) + 4096
    assert {entry["origin"] for entry in report["entries"]} == {"blob", "partial"}


def test_files_just_written_by_sync_count_as_verified(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench), ollama(bench))
    dates = {path: entry["verified"] for path, entry in by_path(care("list")).items() if entry["digest"]}
    assert any("/manifests/" in path for path in dates if path)  # a copy
    assert all(dates.values())


@pytest.mark.parametrize("link", [False, True])
def test_files_that_sync_adopted_count_as_verified(bench: Bench, care: Callable[..., Result], *, link: bool) -> None:
    path = bench.root / ONE
    path.parent.mkdir(parents=True)
    real = bench.folder / "mine" if link else path
    real.write_bytes(read(WEIGHTS))
    os.utime(real, (1, 1))
    if link:
        path.symlink_to(real)
    assert bench.sync(vae(bench)).code == 0
    entry = by_path(care("list"))[ONE]
    assert entry["origin"] == "adopted"
    assert entry["verified"] > "2020"
    os.utime(real, (2, 2))  # touched: the next sync hashes it again
    assert by_path(care("list"))[ONE]["verified"] is None
    assert bench.sync(vae(bench)).code == 0
    assert by_path(care("list"))[ONE]["verified"] > "2020"


def test_a_touched_file_that_sync_hashed_counts_as_verified(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench))
    os.utime(bench.root / ONE, (1, 1))
    assert bench.sync(vae(bench)).code == 0
    assert by_path(care("list"))[ONE]["verified"] > "2020"


def test_list_shows_no_verification_date_for_a_damaged_file(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench))
    flip(bench.root / ONE)
    care("verify")
    assert {entry["verified"] for entry in care("list").report["entries"]} == {None}
    bench.capsys.readouterr()
    run(["ls", "--root", str(bench.root)])
    assert "damaged" in bench.capsys.readouterr().out


FILTERS: list[tuple[list[str], set[str]]] = [
    (["--for", "ollama"], {"tiny"}),
    (["--filter", "model=v*"], {"vae"}),
    (["--filter", "origin=made", "--filter", "for=whisper"], {"w"}),
    (["--filter", "tier=other"], set()),
    (["--filter", "size>1TB"], set()),
]


def test_entries_are_filtered_sorted_and_limited(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench), ollama(bench), whisper(bench))
    for words, names in FILTERS:
        assert {entry["model"] for entry in care("ls", *words).report["entries"]} == names, words
    sizes = [entry["size"] for entry in care("ls", "--sort", "size").report["entries"]]
    assert sizes == sorted(sizes, reverse=True)
    (first,) = care("ls", "--sort", "size:desc", "--limit", "1").report["entries"]
    assert first["size"] == sizes[0]


@pytest.mark.parametrize(
    ("store", "command"),
    [
        ("my models/.modelfetch", "modelfetch prune --root 'my models'"),
        ("the store", "modelfetch prune --root 'my models' --store 'the store'"),
    ],
)
def test_the_command_that_frees_space_can_be_pasted(store: str, command: str) -> None:
    text = list_table(Listing(root="my models", store=store, entries=(), reclaimable=5))
    assert text.splitlines()[-1] == f"5 B can be freed: {command}"


def test_rows_are_sorted_by_the_sum_of_their_files(bench: Bench) -> None:
    whole = bench.root / "comfyui/models/vae/whole.safetensors"
    shards = [bench.root / f"whisper/shard-{number}.bin" for number in range(3)]
    for path, size in ((whole, 1000), *((shard, 600) for shard in shards)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"b" * size)

    def services(*words: str) -> list[str]:
        bench.capsys.readouterr()
        run(["list", "--root", str(bench.root), *words])
        return [line.split("other files")[1].split()[0] for line in bench.capsys.readouterr().out.splitlines()[1:3]]

    assert services("--sort", "size") == ["whisper", "comfyui"]
    assert services("--sort", "size:asc") == ["comfyui", "whisper"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--filter", "size", "expected one of size, verified, origin, model, for, tier, an operator and a value"),
        ("--filter", "kind=vae", "expected one of size, verified, origin, model, for, tier, an operator and a value"),
        ("--filter", "size>x", "found 'x'"),
        ("--sort", "colour", "expected one of model, size, verified, path"),
    ],
)
def test_a_filter_that_cannot_be_read_is_wrong_usage(
    care: Callable[..., Result], option: str, value: str, message: str
) -> None:
    result = care("list", option, value)
    assert (result.code, result.codes()) == (2, ["usage"])
    assert message in result.err
    assert "hint:" in result.err


def test_a_limit_omits_rows_but_not_their_bytes_from_the_total(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench), ollama(bench), whisper(bench))

    def lines(*words: str) -> list[str]:
        bench.capsys.readouterr()
        run(["list", "--root", str(bench.root), *words])
        return bench.capsys.readouterr().out.splitlines()

    every, two = lines(), lines("--limit", "2")
    assert [line.split() for line in two[1:3]] == [line.split() for line in every[1:3]]
    assert two[3] == f"{len(every) - 4} more left out by --limit"
    assert two[4:] == every[-1:]
    assert care("list", "--limit", "2").report["bytes"] == care("list").report["bytes"]
    assert len(lines("--quiet", "--limit", "2")) == 2


def test_files_of_a_sync_that_was_killed_are_not_foreign(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench))
    (bench.root / ".modelfetch/receipts/comfyui.json").unlink()
    foreign = bench.root / "comfyui/models/vae/mine.safetensors"
    foreign.write_bytes(b"mine")
    entries = care("list", "--for", "comfyui").report["entries"]
    assert {(entry["model"], entry["path"], entry["origin"]) for entry in entries} == {
        ("vae", TWO, "made"),
        (None, "comfyui/models/vae/mine.safetensors", "foreign"),
    }
    assert care("prune").report["models"] == []


@pytest.mark.parametrize("kind", first(1, ["fifo", "folder", "link"]))
@pytest.mark.parametrize(
    "place", [".modelfetch/checks.json", "ollama/models/manifests/registry.ollama.ai/library/odd/latest"]
)
def test_list_does_not_block_on_a_fifo_in_the_place_of_a_file(
    place: str, kind: str, bench: Bench, care: Callable[..., Result]
) -> None:
    bench.sync(vae(bench), ollama(bench))
    path = bench.root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    for command in ("list", "verify", "prune"):
        assert care(command).code == 0
    assert os.path.lexists(path)
