"""The HTTP layer: one client, typed errors, credentials per host. Only this package uses httpx."""

from modelfetch.http.client import Http
from modelfetch.http.response import Response, UndecodableError
from modelfetch.http.status import check_status, retry_after
from modelfetch.http.types import Authenticator, Headers, Reply, Timeouts

__all__ = [
    "Authenticator",
    "Headers",
    "Http",
    "Reply",
    "Response",
    "Timeouts",
    "UndecodableError",
    "check_status",
    "retry_after",
]
