"""What can go wrong between a hub and a client, as small values that a test adds to a path.

``hub.faults.add("**/model.bin", DropAfter(bytes=1000))`` breaks the next body that matches, once. Faults of a body wait
for a GET that is answered with a file's content, so a redirect on the way to it does not use them up. Several faults
that match one answer are all applied, in the order in which they were added.
"""

from __future__ import annotations

from modelfetch.demo.faults.answers import (
    BitFlip,
    ChangedETag,
    ExpiredUrl,
    HtmlPage,
    JsonError,
    OtherContent,
    OtherHeaders,
    RateLimited,
    RedirectLoop,
    RedirectTo,
    Status,
    Truncated,
)
from modelfetch.demo.faults.base import Fault, FaultTable
from modelfetch.demo.faults.transport import (
    Chunked,
    CloseDelimited,
    DropAfter,
    EndlessHeaders,
    Gzip,
    IgnoreRange,
    NotHttp,
    Refuse,
    ResetAfter,
    Stall,
    StallAfter,
    Throttle,
    WrongContentRange,
    WrongLength,
)

__all__ = [
    "Fault",
    "FaultTable",
    "BitFlip",
    "ChangedETag",
    "ExpiredUrl",
    "HtmlPage",
    "JsonError",
    "OtherContent",
    "OtherHeaders",
    "RateLimited",
    "RedirectLoop",
    "RedirectTo",
    "Status",
    "Truncated",
    "Chunked",
    "CloseDelimited",
    "DropAfter",
    "EndlessHeaders",
    "Gzip",
    "IgnoreRange",
    "NotHttp",
    "Refuse",
    "ResetAfter",
    "Stall",
    "StallAfter",
    "Throttle",
    "WrongContentRange",
    "WrongLength",
]
