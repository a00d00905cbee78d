"""Faults between a hub and a client, as small values that a test adds to a path.

``hub.faults.add("**/model.bin", DropAfter(bytes=1000))`` breaks the next matching body, once. Faults of a body wait
for a GET whose response has a file's content, so a redirect before it does not use them up. If several faults
match one response, all are applied, in the order in which they were added.
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
