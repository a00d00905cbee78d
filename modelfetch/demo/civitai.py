"""A simulation of CivitAI's API.

Source: the site's developer documentation and the responses of its download endpoint.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from modelfetch.demo.cdn import Site
from modelfetch.demo.message import Request, Response, as_json, redirect, text

if TYPE_CHECKING:
    from modelfetch.demo.world import CivitaiFile, CivitaiVersion

_LOGIN_PAGE = "<!DOCTYPE html><html><head><title>Sign in to Civitai</title></head><body>Sign in</body></html>"


class CivitaiSite(Site):
    """Responds as civitai.com does, with the world's content."""

    def answer(self, request: Request) -> Response:
        """Route one request."""
        parts = request.path.strip("/").split("/")
        if parts == ["login"]:
            return text(200, _LOGIN_PAGE, kind="text/html; charset=utf-8")
        if parts[:3] == ["api", "v1", "model-versions"] and len(parts) in {4, 5}:
            return self._version(parts[3:])
        if parts[:3] == ["api", "download", "models"] and len(parts) == 4:
            return self._download(request, parts[3])
        return as_json(404, {"error": "Not found"})

    def _version(self, parts: list[str]) -> Response:
        version = self._by_hash(parts[1]) if parts[0] == "by-hash" and len(parts) == 2 else self._find(parts[0])
        if version is None:
            return as_json(404, {"error": f"No model version with id {parts[-1]}"})
        return as_json(200, self._describe(version))

    def _find(self, text_id: str) -> CivitaiVersion | None:
        return self._world.civitai.get(int(text_id)) if text_id.isdecimal() else None

    def _by_hash(self, digest: str) -> CivitaiVersion | None:
        wanted = digest.lower()
        versions = self._world.civitai.values()
        return next((one for one in versions if any(file.body.sha256 == wanted for file in one.files)), None)

    def _describe(self, version: CivitaiVersion) -> dict[str, Any]:
        return {
            "id": version.id,
            "modelId": version.model_id,
            "name": version.name,
            "air": f"urn:air:sdxl:{version.type.lower()}:civitai:{version.model_id}@{version.id}",
            "baseModel": version.base_model,
            "status": "Published",
            "availability": "EarlyAccess" if version.early_access else "Public",
            "earlyAccessEndsAt": "2030-01-01T00:00:00.000Z" if version.early_access else None,
            "usageControl": "Download",
            "model": {"name": version.name, "type": version.type, "nsfw": False, "poi": False},
            "files": [self._describe_file(version, file) for file in version.files],
            "downloadUrl": f"{self.base}/api/download/models/{version.id}",
        }

    def _describe_file(self, version: CivitaiVersion, file: CivitaiFile) -> dict[str, Any]:
        digest = (file.sha256 or file.body.sha256).upper()
        return {
            "id": file.id,
            "name": file.name,
            "type": file.type,
            "sizeKB": file.body.size / 1024,
            "metadata": {"format": file.format, "size": "pruned", "fp": "fp16"},
            "pickleScanResult": file.scan,
            "virusScanResult": file.scan,
            "hashes": {"AutoV1": digest[:8], "AutoV2": digest[:10], "SHA256": digest},
            "downloadUrl": f"{self.base}/api/download/models/{version.id}?fileId={file.id}",
            "primary": file.primary,
        }

    def _download(self, request: Request, version_id: str) -> Response:
        version = self._find(version_id)
        file = None if version is None else _choose(version, request.query)
        if version is None or file is None:
            return as_json(404, {"error": "File not found"})
        if version.early_access:
            return as_json(403, {"error": "This model version is in early access"})
        if version.login != "none" and not self._authorized(request):
            return self._refuse(version)
        etag = hashlib.sha256(file.body.sha256.encode()).hexdigest()[:32]
        location = self._cdn.publish(
            "civitai-delivery-worker-prod",
            file.body,
            label=f"{request.path}/{file.name}",
            etag=etag,
            filename=file.name,
            head=False,
            lifetime=86400,
        )
        return redirect(307, location)

    def _authorized(self, request: Request) -> bool:
        given = request.bearer or request.query.get("token", "")
        return ("civitai", given) in self._world.tokens

    def _refuse(self, version: CivitaiVersion) -> Response:
        """Return one of the site's three observed kinds of refusal."""
        back = f"/login?returnUrl=/models/{version.model_id}&reason=download-auth"
        if version.login == "json":
            return as_json(
                401, {"error": "Unauthorized", "message": "The creator of this asset requires you to be logged in"}
            )
        if version.login == "forbidden":
            return text(403, _LOGIN_PAGE, ("Location", self.base + back), kind="text/html; charset=utf-8")
        return redirect(307, self.base + back)


def _choose(version: CivitaiVersion, query: dict[str, str]) -> CivitaiFile | None:
    if "fileId" in query:
        return next((file for file in version.files if str(file.id) == query["fileId"]), None)
    wanted_type, wanted_format = query.get("type"), query.get("format")
    fitting = [
        file for file in version.files if wanted_type in (None, file.type) and wanted_format in (None, file.format)
    ]
    return next((file for file in fitting if file.primary), fitting[0] if fitting else None)
