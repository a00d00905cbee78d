"""``file:///…``: a file on this machine, for example on a share that already holds models."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from modelfetch.core.artifact import Artifact, Location, Resolution
from modelfetch.core.os_errors import missing_file_error, not_a_file_error
from modelfetch.errors import CredentialsError, DiskError
from modelfetch.manifest.uri import FileUri
from modelfetch.sources.base import Source, SourceRequest

if TYPE_CHECKING:
    from modelfetch.config.settings import Settings
    from modelfetch.http import Http
    from modelfetch.sources.base import ReadBlob


class FileSource(Source[FileUri]):
    """Reads the file's metadata; its content is transferred like that of any other source."""

    def __init__(self, _http: Http, _settings: Settings) -> None:
        """Ignore the arguments: this source sends no requests."""

    def query(self, uri: FileUri, wanted: SourceRequest) -> Resolution:
        """Return the file's size. Only the manifest can provide a digest."""
        try:
            found = Path(uri.path).stat()
            readable = os.access(uri.path, os.R_OK)
        except (FileNotFoundError, NotADirectoryError):
            raise missing_file_error(uri.path) from None
        except PermissionError:
            message = f"{uri.path} can't be accessed: permission denied"
            raise CredentialsError(message, code="forbidden", hint=_hint()) from None
        except (OSError, ValueError) as error:
            raise DiskError(f"{uri.path} can't be accessed: {getattr(error, 'strerror', None) or error}") from None
        if not stat.S_ISREG(found.st_mode):
            raise not_a_file_error(uri.path)
        if not readable:
            raise CredentialsError(f"{uri.path} may not be read", code="forbidden", hint=_hint())
        return Resolution(artifacts=(_artifact(uri, found.st_size),))

    @classmethod
    def known(cls, uri: FileUri, wanted: SourceRequest, settings: Settings, read_blob: ReadBlob) -> Resolution | None:
        """Return a file whose digest and size are pinned without looking at it."""
        if wanted.digest is None or wanted.size is None:
            return None
        return cls.apply_pins(wanted, Resolution(artifacts=(_artifact(uri, wanted.size),), pinned=True))


def _artifact(uri: FileUri, size: int) -> Artifact:
    location = Location(uri=uri.text, url="file://" + quote(uri.path))
    return Artifact(uri=uri.text, path=uri.path.rpartition("/")[2], size=size, locations=(location,))


def _hint() -> str:
    return f"it must be readable for uid {os.geteuid()}"
