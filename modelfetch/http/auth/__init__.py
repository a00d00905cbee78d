"""Credentials, host by host: none ever goes to another host, or in the clear where it came for TLS."""

from modelfetch.http.auth.credentials import Credentials

__all__ = ["Credentials"]
