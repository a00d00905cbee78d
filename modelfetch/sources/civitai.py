"""``civitai://…``: a file of a CivitAI model version.

Source: CivitAI's developer documentation (``/api/v1/model-versions/ID``, ``/api/download/models/ID``). The token is
sent in a header, never in the URL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelfetch.config.secret import CredentialFileError
from modelfetch.config.settings import CIVITAI_ENDPOINT, Settings
from modelfetch.core import untrusted_json
from modelfetch.core.artifact import Artifact, Location, Resolution
from modelfetch.core.digest import Digest
from modelfetch.core.units import format_list
from modelfetch.errors import CredentialsError, IntegrityError, ModelfetchError, NotFoundError, UnreachableError
from modelfetch.http import check_status
from modelfetch.manifest.kinds import WEIGHT_KINDS
from modelfetch.manifest.paths import safe_name
from modelfetch.manifest.uri import CivitaiUri
from modelfetch.sources.answers import FIRST_BYTE, FIRST_BYTES, check_file, total_size
from modelfetch.sources.base import Source, SourceRequest
from modelfetch.sources.pages import is_html, refuse_page, refuse_page_as_metadata

if TYPE_CHECKING:
    from modelfetch.http import Http
    from modelfetch.sources.base import ReadBlob


_LARGEST_ID = 10**12
"""Bounds the id of a file in the API's answer, which becomes a part of an address."""


class CivitaiSource(Source[CivitaiUri]):
    """Requests the version's metadata, then the file's first byte, which is the only way to check access."""

    def __init__(self, http: Http, settings: Settings) -> None:
        self._http = http
        self._settings = settings

    def query(self, uri: CivitaiUri, wanted: SourceRequest) -> Resolution:
        """Return the selected file with its name, digest and size, if its scans are clean and access is allowed."""
        version = self._version(uri)
        file = _choose(version, uri)
        if not wanted.allow_unscanned:
            _check_scans(file, uri)
        number = file.get("id")
        usable = type(number) is int and 0 < number < _LARGEST_ID
        address = _address(uri, number if usable else uri.file, self._settings)
        digest = _digest(file)
        size = self._first_byte(address, uri, version, wanted, pinned=digest is not None)
        name = safe_name(file["name"]) if isinstance(file.get("name"), str) else None
        artifact = _artifact(uri, name or wanted.filename or f"civitai-{uri.version}", address, size, digest)
        return Resolution(artifacts=(artifact,), revision=str(uri.version), category=_category(version))

    @classmethod
    def known(
        cls, uri: CivitaiUri, wanted: SourceRequest, settings: Settings, read_blob: ReadBlob
    ) -> Resolution | None:
        """Return a file whose digest, size and name are pinned."""
        if (
            wanted.digest is None
            or wanted.size is None
            or not wanted.filename
            or (uri.choices and not settings.offline)
        ):
            return None
        name = wanted.filename.rpartition("/")[2]
        artifact = _artifact(uri, name, _address(uri, uri.file, settings), wanted.size, None)
        return cls.apply_pins(wanted, Resolution(artifacts=(artifact,), revision=str(uri.version), pinned=True))

    def _version(self, uri: CivitaiUri) -> dict[str, Any]:
        endpoint = _endpoint(uri, self._settings)
        reply = self._http.get(
            f"{endpoint}/api/v1/model-versions/{uri.version}", headers={"Accept": "application/json"}
        )
        if reply.status == 401:
            raise self._needs_token(uri, rejected=reply.authorized)
        if reply.status == 404:
            raise NotFoundError(
                f"CivitAI has no version {uri.version}",
                hint="the number is that of a version (modelVersionId in the page's address), not of the model",
            )
        check_status(reply, what=str(uri), uri=str(uri))
        refuse_page_as_metadata(reply, f"the metadata of {uri}", str(uri))
        try:
            document = untrusted_json.parse_object(reply.body)
        except ValueError:
            document = {}
        if not isinstance(document.get("files"), list):
            raise UnreachableError(
                f"{endpoint} sent no valid metadata of {uri}",
                code="bad-response",
                permanent=True,
            )
        return document

    def _first_byte(
        self, address: str, uri: CivitaiUri, version: dict[str, Any], wanted: SourceRequest, *, pinned: bool
    ) -> int | None:
        """Return the size in bytes (the API's own is rounded); raise if access to the file is denied."""
        with self._http.open("GET", address, headers=FIRST_BYTES if wanted.fills_size else FIRST_BYTE) as response:
            if response.status == 403 and version.get("availability") == "EarlyAccess":
                raise CredentialsError(
                    f"{uri} is in early access",
                    code="early-access",
                    hint="buy access on the site with the account of your token, or wait until it is public",
                )
            sent = response.authorized or (response.redirected and self._sent(address))
            refuse_page(
                response,
                str(uri),
                size=wanted.size,
                pinned=pinned,
                digest=wanted.digest,
                login=self._needs_token(uri, code="login-page", rejected=sent),
                weights=wanted.kind in WEIGHT_KINDS,
                fills_size=wanted.fills_size,
            )
            if response.status == 401 or (response.status == 403 and is_html(response.headers)):
                code = "login-page" if is_html(response.headers) else "unauthorized"
                raise self._needs_token(uri, code=code, rejected=response.authorized)
            check_file(response, address, what=str(uri), uri=str(uri))
            size = total_size(response)
            response.drain()
        return size

    def _sent(self, address: str) -> bool:
        """Return whether requests to an address carry a token."""
        auth = self._http.auth
        return auth is not None and bool(auth.headers(address))

    def _needs_token(self, uri: CivitaiUri, *, rejected: bool, code: str = "unauthorized") -> ModelfetchError:
        if rejected:
            return CredentialsError(
                f"CivitAI rejects the token that was sent for {uri}",
                code=code,
                hint="make a new one in your account's settings",
            )
        why, hint = "", "set CIVITAI_API_TOKEN; make one in your account's settings"
        try:
            self._settings.civitai_token.value()
        except CredentialFileError as error:
            why, hint = f", and it can't be read: {error.message}", error.hint or hint
        return CredentialsError(f"CivitAI requires a token for {uri}{why}", code=code, hint=hint)


def _endpoint(uri: CivitaiUri, settings: Settings) -> str:
    """Return the endpoint: the second domain if a link names it, unless another one is configured."""
    default = settings.civitai_endpoint == CIVITAI_ENDPOINT
    return f"https://{uri.host}" if default and uri.host else settings.civitai_endpoint


def _address(uri: CivitaiUri, file: int | None, settings: Settings) -> str:
    query = "" if file is None else f"?fileId={file}"
    return f"{_endpoint(uri, settings)}/api/download/models/{uri.version}{query}"


def _category(version: dict[str, Any]) -> str | None:
    """Return CivitAI's type of the model, such as ``Checkpoint`` or ``LORA``."""
    model = version.get("model")
    category = model.get("type") if isinstance(model, dict) else None
    return category[:40] if isinstance(category, str) else None


def _choose(version: dict[str, Any], uri: CivitaiUri) -> dict[str, Any]:
    """Return the file that the URI names, else the primary one, else the only model."""
    files = [file for file in version["files"] if isinstance(file, dict)]
    if uri.file is not None:
        fitting = [file for file in files if file.get("id") == uri.file]
        if not fitting:
            raise NotFoundError(
                f"CivitAI's version {uri.version} has no file {uri.file}", hint=f"it has {_ids(files) or 'none'}"
            )
        return fitting[0]
    if uri.choices:
        files = _preferred(files, dict(uri.choices))
    primary = [file for file in files if file.get("primary") is True]
    models = [file for file in files if file.get("type") in ("Model", "Pruned Model")]
    for fitting in (primary, models, files):
        if len(fitting) == 1:
            return fitting[0]
    if not files:
        raise NotFoundError(f"CivitAI's version {uri.version} has no files")
    raise NotFoundError(
        f"CivitAI's version {uri.version} has {len(files)} files", hint=f"name one with ?fileId=: {_ids(files)}"
    )


def _ids(files: list[dict[str, Any]]) -> str:
    return format_list([str(file.get("id"))[:12] for file in files])


def _preferred(files: list[dict[str, Any]], choices: dict[str, str]) -> list[dict[str, Any]]:
    """Return the files that best match a download link's preferences, as the site itself selects them."""
    wanted = {name: value.lower() for name, value in choices.items()}

    def score(file: dict[str, Any]) -> tuple[bool, int]:
        metadata = file.get("metadata")
        fields = metadata if isinstance(metadata, dict) else {}
        same = sum(
            str(fields.get(name, "")).lower() == wanted[name] for name in ("format", "size", "fp") if name in wanted
        )
        return str(file.get("type", "")).lower() == wanted.get("type"), same

    best = max(map(score, files), default=None)
    return [file for file in files if score(file) == best]


def _check_scans(file: dict[str, Any], uri: CivitaiUri) -> None:
    for key, what in (("pickleScanResult", "pickle"), ("virusScanResult", "virus")):
        if (result := file.get(key)) != "Success":
            raise IntegrityError(
                f"the result of CivitAI's {what} scan of {uri} is {str(result)[:40]!r}, not 'Success'",
                code="scan-not-clean",
                hint="choose another file; to accept it anyway, set `allow_unscanned: true` in its entry",
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
    shown = str(uri)
    return Artifact(uri=shown, path=name, size=size, digest=digest, locations=(Location(uri=shown, url=address),))
