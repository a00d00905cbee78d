"""Credentials per host: never sent to another host, nor over plain HTTP if they belong to a TLS service."""

from modelfetch.http.auth.credentials import Credentials

__all__ = ["Credentials"]
