"""Load huggingface_hub on demand, and get the token that it finds.

It reads the environment on import and treats empty variables as set, while modelfetch treats them as unset, so empty
variables are hidden during the import. Its telemetry is off unless the environment sets it: to fill its User-Agent
it sends an extra request to the hub, which a site with a cache may not be able to reach.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from modelfetch.config.secret import CredentialFileError
from modelfetch.core.fs import read_head
from modelfetch.core.limits import raise_limit
from modelfetch.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

_LOCK = threading.Lock()
_LONGEST_FILE = 64 * 1024  # bytes
_ITS_OWN = ("HF_", "HUGGING", "TRANSFORMERS_", "XDG_")
_TELEMETRY = "HF_HUB_DISABLE_TELEMETRY"


def load() -> ModuleType:
    """Import and return the package.

    Raises:
        SettingError: It can't be imported, for example because a variable that it reads has an invalid value.
    """
    with _LOCK:
        empty = {name: value for name, value in os.environ.items() if name.startswith(_ITS_OWN) and not value.strip()}
        for name in empty:
            os.environ.pop(name, None)
        decided = _TELEMETRY in os.environ
        os.environ.setdefault(_TELEMETRY, "1")
        try:
            import huggingface_hub
            import huggingface_hub.constants  # the part that reads the environment; the package itself loads it lazily
            import huggingface_hub.errors
            import huggingface_hub.utils

            return huggingface_hub
        except Exception as error:
            raise SettingError(
                f"huggingface_hub can't be loaded: {type(error).__name__}: {error}",
                hint="check the HF_… variables, or reinstall huggingface_hub",
            ) from error
        finally:
            if not decided:
                os.environ.pop(_TELEMETRY, None)
            for name, value in empty.items():
                os.environ.setdefault(name, value)


def stored_token() -> str | None:
    """Return the token that ``hf auth login`` stored, or that huggingface_hub finds another way.

    Raises:
        CredentialFileError: The file that holds it can't be read, or the configured way fails (OIDC).
        SettingError: huggingface_hub can't be loaded.
    """
    package = load()
    _check_file(Path(package.constants.HF_TOKEN_PATH))
    try:
        token: str | None = package.get_token()
    except OSError as error:
        raise_limit(error)
        where = error.filename or package.constants.HF_TOKEN_PATH
        raise CredentialFileError(f"{where} can't be read: {error.strerror}") from error
    except Exception as error:
        raise_limit(error)
        raise CredentialFileError(f"huggingface_hub finds no token: {type(error).__name__}") from error
    return token


def _check_file(path: Path) -> None:
    """Check the token's file, which huggingface_hub would read to its end, also if it is a FIFO or a device."""
    try:
        if len(content := read_head(path, _LONGEST_FILE + 1)) > _LONGEST_FILE:
            raise CredentialFileError(f"{path}: expected a token, found more than {_LONGEST_FILE} bytes")
        content.decode()
    except (FileNotFoundError, NotADirectoryError):
        return
    except UnicodeDecodeError:
        raise CredentialFileError(f"{path}: expected a token, found no text") from None
    except OSError as error:
        raise CredentialFileError(f"{path} can't be read: {error.strerror}") from error


def matching(paths: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """Return the paths that match any ``include`` pattern, as `snapshot_download`'s ``allow_patterns`` does."""
    return list(load().utils.filter_repo_objects(list(paths), allow_patterns=list(patterns)))
