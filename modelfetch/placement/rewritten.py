"""Which placed files are rewritten by their service. Pure.

Such a file is always a separate copy, and a change of it is not damage: `status` and `verify` name the service that
rewrote it, `sync` leaves it alone, and `verify --repair NAME` restores it.
"""

from __future__ import annotations

import re

_REWRITES = (
    # Immich adds a batch axis to the recognition model and saves it in place (source: immich, machine-learning/
    # immich_ml/models/facial_recognition/recognition.py).
    ("immich", re.compile(r"immich/facial-recognition/[^/]+/(?:[^/]+/)?recognition/model\.onnx\Z")),
)


def rewriting_service(path: str) -> str | None:
    """The service that may rewrite the file at ``path`` (below ROOT) in place; None for a file that stays as it is."""
    return next((service for service, pattern in _REWRITES if pattern.match(path)), None)
