"""Credentials, host by host: none ever goes to another host, or in the clear where it came for TLS."""

from modelfetch.credentials.keeper import Credentials

__all__ = ["Credentials"]
