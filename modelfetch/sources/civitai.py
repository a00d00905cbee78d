"""``civitai://…``: a file of a CivitAI model version.

Source: CivitAI's developer documentation (``/api/v1/model-versions/ID``, ``/api/download/models/ID``). The token goes
into a header, never into the address.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from modelfetch.core.artifact import Artifact, Location, Resolution
from modelfetch.core.digest import Digest
from modelfetch.errors import CredentialsError, IntegrityError, ModelfetchError, NotFoundError, UnreachableError
from modelfetch.http import check_status
from modelfetch.manifest.paths import safe_name
from modelfetch.manifest.uri import CivitaiUri
from modelfetch.sources.base import Source, SourceRequest
from modelfetch.sources.https import FIRST_BYTE, check_file, is_html, total_size

if TYPE_CHECKING:
    from modelfetch.config.settings import Settings
    from modelfetch.http import Http, Response
    from modelfetch.sources.base import ReadBlob

_LOGIN = re.compile(r"/login/?\Z")


class CivitaiSource(Source[CivitaiUri]):
    """Asks for the version's metadata, then for the first byte of the file: only that tells whether one is let in."""

    def __init__(self, http: Http, settings: Settings) -> None:
        self._http = http
        self._settings = settings

    def ask(self, uri: CivitaiUri, wanted: SourceRequest) -> Resolution:
        """The chosen file with its name, digest and size, if its scans are clean and it may be had."""
        version = self._version(uri)
        file = _choose(version, uri)
        if not wanted.allow_unscanned:
            _check_scans(file, uri)
        number = file.get("id")
        address = self._address(uri.version, number if isinstance(number, int) else uri.file)
        size = self._first_byte(address, uri, version)
        name = safe_name(file["name"]) if isinstance(file.get("name"), str) else None
        artifact = _artifact(uri, name or wanted.filename or f"civitai-{uri.version}", address, size, _digest(file))
        return Resolution(artifacts=(artifact,), revision=str(uri.version), category=_category(version))

    def known(self, uri: CivitaiUri, wanted: SourceRequest, read_blob: ReadBlob) -> Resolution | None:
        """A file whose digest, size and name are pinned."""
        if wanted.digest is None or wanted.size is None or not wanted.filename:
            return None
        artifact = _artifact(
            uri, wanted.filename.rpartition("/")[2], self._address(uri.version, uri.file), wanted.size, None
        )
        return self.agree(wanted, Resolution(artifacts=(artifact,), revision=str(uri.version), pinned=True))

    def _address(self, version: int, file: int | None) -> str:
        query = "" if file is None else f"?fileId={file}"
        return f"{self._settings.civitai_endpoint}/api/download/models/{version}{query}"

    def _version(self, uri: CivitaiUri) -> dict[str, Any]:
        url = f"{self._settings.civitai_endpoint}/api/v1/model-versions/{uri.version}"
        reply = self._http.get(url, headers={"Accept": "application/json"})
        if reply.status == 401:
            raise self._wants_token(uri)
        if reply.status == 404:
            raise NotFoundError(
                f"CivitAI knows no version {uri.version}",
                hint="the number is that of a version (modelVersionId in the page's address), not of the model",
            )
        check_status(reply, what="it", uri=uri.text)
        try:
            document = json.loads(reply.body)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict) or not isinstance(document.get("files"), list):
            raise UnreachableError(
                f"{self._settings.civitai_endpoint} gave no metadata of {uri} that can be understood",
                code="bad-response",
                permanent=True,
            )
        return document

    def _first_byte(self, address: str, uri: CivitaiUri, version: dict[str, Any]) -> int | None:
        """The size in bytes (the API's own is rounded), and whether the file may be had at all."""
        with self._http.open("GET", address, headers=FIRST_BYTE) as response:
            self._refuse(response, uri, version)
            check_file(response, address, what="it", uri=uri.text)
            size = total_size(response)
            response.drain()
        return size

    def _refuse(self, response: Response, uri: CivitaiUri, version: dict[str, Any]) -> None:
        if response.status == 403 and version.get("availability") == "EarlyAccess":
            raise CredentialsError(
                f"{uri} is in early access",
                code="early-access",
                hint="buy access on the site with the account of your token, or wait until it is public",
            )
        page = _LOGIN.search(urlsplit(response.url).path) is not None
        if page or (is_html(response.headers) and response.status < 500):
            raise self._wants_token(uri, code="login-page")
        if response.status == 401:
            raise self._wants_token(uri)

    def _wants_token(self, uri: CivitaiUri, code: str = "unauthorized") -> ModelfetchError:
        if self._settings.civitai_token.value():
            return CredentialsError(
                f"CivitAI refuses the token that was sent for {uri}",
                code=code,
                hint="make a new one in your account's settings",
            )
        return CredentialsError(
            f"CivitAI gives {uri} only to those who log in",
            code=code,
            hint="set CIVITAI_API_TOKEN, or CIVITAI_API_TOKEN_FILE",
        )


def _category(version: dict[str, Any]) -> str | None:
    """The site's type of the model, such as ``Checkpoint`` or ``LORA``."""
    model = version.get("model")
    category = model.get("type") if isinstance(model, dict) else None
    return category[:40] if isinstance(category, str) else None


def _choose(version: dict[str, Any], uri: CivitaiUri) -> dict[str, Any]:
    """The file that the URI names, else the primary one, else the only model."""
    files = [file for file in version["files"] if isinstance(file, dict)]
    if uri.file is not None:
        fitting = [file for file in files if file.get("id") == uri.file]
        if not fitting:
            listed = ", ".join(str(file.get("id"))[:12] for file in files[:5])
            raise NotFoundError(
                f"CivitAI's version {uri.version} has no file {uri.file}", hint=f"it has {listed or 'none'}"
            )
        return fitting[0]
    primary = [file for file in files if file.get("primary") is True]
    models = [file for file in files if file.get("type") in ("Model", "Pruned Model")]
    for fitting in (primary, models, files):
        if len(fitting) == 1:
            return fitting[0]
    if not files:
        raise NotFoundError(f"CivitAI's version {uri.version} has no files")
    listed = ", ".join(str(file.get("id"))[:12] for file in files[:5])
    raise NotFoundError(
        f"CivitAI's version {uri.version} has {len(files)} files", hint=f"name one by ?fileId=: {listed}"
    )


def _check_scans(file: dict[str, Any], uri: CivitaiUri) -> None:
    for key, what in (("pickleScanResult", "pickle"), ("virusScanResult", "virus")):
        if (result := file.get(key)) != "Success":
            raise IntegrityError(
                f"CivitAI's {what} scan of {uri} says {str(result)[:40]!r}, not Success",
                code="scan-not-clean",
                hint="choose another file, or say allow_unscanned: true",
            )


def _digest(file: dict[str, Any]) -> Digest | None:
    hashes = file.get("hashes")
    if not isinstance(hashes, dict):
        return None
    for key, algorithm in (("SHA256", "sha256"), ("BLAKE3", "blake3")):
        value = hashes.get(key)
        if isinstance(value, str):
            try:
                return Digest(algorithm, value)
            except ValueError:
                continue
    return None


def _artifact(uri: CivitaiUri, name: str, address: str, size: int | None, digest: Digest | None) -> Artifact:
    return Artifact(uri=uri.text, path=name, size=size, digest=digest, locations=(Location(uri=uri.text, url=address),))
