"""Damage to files as a bad disk does it, and documents in which a value is not what it should be."""

from __future__ import annotations

import copy
import json
import os
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ODD_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        2**63,
        10**30,
        1.5,
        float("inf"),
        float("nan"),
        "",
        "\ud800",
        "../x",
        "\0",
        "x" * 5000,
        "sha256:zz",
    ),
    *([], {}, [None], ["x"], {"a": {}}, "9" * 400, "sha256:" + "F" * 64),
)


def flip(path: Path, offset: int = 100) -> None:
    """Change one byte as a bad disk does: size and times stay."""
    before = path.stat()
    mode = before.st_mode
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    path.chmod(mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Each container in a document, with the key of each of its values."""
    for key in document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ():
        yield document, key
        yield from _places(document[key])


@st.composite
def odd_documents(draw: st.DrawFn, document: Any) -> Any:
    """JSON documents like this one, with one or two values replaced or removed."""
    changed = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 2))):
        if not (places := list(_places(changed))):
            break
        container, key = draw(st.sampled_from(places))
        if draw(st.booleans()) and isinstance(container, dict):
            del container[key]
        else:
            container[key] = copy.deepcopy(draw(st.sampled_from(ODD_VALUES)))
    return changed
