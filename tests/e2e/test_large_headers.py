"""Headers of the largest size that their format allows, checked with the memory of an init container."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.formats.test_content_check import checked_in_256_mib

if TYPE_CHECKING:
    from pathlib import Path


def test_a_safetensors_header_of_the_largest_size_is_checked_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.write(bytes(8) + b"{")
        for number in range(count := 170_000):
            name = f'"model.layers.{number:0350d}"'
            file.write(f'{name}:{{"dtype":"F16","shape":[2],"data_offsets":[{number * 4},{number * 4 + 4}]}},'.encode())
        file.seek(-1, 1)
        file.write(b"}")
        length = file.tell() - 8
        file.seek(0)
        file.write(length.to_bytes(8, "little"))
        file.truncate(8 + length + count * 4)
    assert length > 69_000_000
    assert checked_in_256_mib(path) == "good"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    assert "ends after" in checked_in_256_mib(path)
