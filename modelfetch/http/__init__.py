"""HTTP as modelfetch speaks it: one door, typed errors, credentials by host. httpx is known only in this package."""

from modelfetch.http.client import Http
from modelfetch.http.response import Response
from modelfetch.http.status import check_status, retry_after
from modelfetch.http.types import Authenticator, Headers, Reply, Timeouts

__all__ = ["Authenticator", "Headers", "Http", "Reply", "Response", "Timeouts", "check_status", "retry_after"]
