from __future__ import annotations

import tracemalloc

from modelfetch.sources.huggingface.listing import SIBLINGS, HubFile, Listing, read_files


def test_a_listing_is_the_dictionary_that_it_was_made_from() -> None:
    files: dict[str, HubFile | None] = {
        "ä/ö.txt": HubFile(path="ä/ö.txt", size=0, oid="ab" * 20),
        "b": HubFile(path="b"),
        "../x": None,
        "a\ud800": None,
        "a.bin": HubFile(path="a.bin", size=2**63 - 1, sha256="cd" * 32),
        "a": HubFile(path="a", oid="00" * 20, sha256="00" * 32),
        "𝄞": HubFile(path="𝄞", size=3),
    }
    listing = Listing(files)
    assert list(listing) == sorted(files)
    assert dict(listing) == files
    assert all(name not in listing for name in ("", "c", "aa", "𝄞𝄞", "ä"))
    assert dict(Listing({})) == {}


def test_a_listing_of_many_files_takes_little_memory() -> None:
    entries = [
        {"rfilename": f"data/{n:06}.bin", "size": n, "blobId": f"{n:040x}", "lfs": {"sha256": f"{n:064x}", "size": n}}
        for n in range(3000)
    ]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        listing = Listing(read_files(entries, SIBLINGS))
        assert tracemalloc.get_traced_memory()[0] - before < 150 * len(listing)
    finally:
        tracemalloc.stop()
    assert listing["data/000007.bin"] == HubFile(path="data/000007.bin", size=7, sha256=f"{7:064x}")
