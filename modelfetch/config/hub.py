"""huggingface_hub, imported when it is needed, and the token that it finds.

It reads the environment when it is imported, where an empty variable is not the unset one that it means here; so those
are hidden from it meanwhile. And its telemetry is off unless the environment has a word on it: what it puts into its
User-Agent it looks up at the hub, a request that nobody asked for, to a host that a site with a cache may not reach.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from modelfetch.errors import SettingError

if TYPE_CHECKING:
    from types import ModuleType

_LOCK = threading.Lock()
_ITS_OWN = ("HF_", "HUGGING", "TRANSFORMERS_", "XDG_")
_TELEMETRY = "HF_HUB_DISABLE_TELEMETRY"


def load() -> ModuleType:
    """The package.

    Raises:
        SettingError: It can't be imported, as when a variable that it reads holds what it can't hold.
    """
    with _LOCK:
        empty = {name: value for name, value in os.environ.items() if name.startswith(_ITS_OWN) and not value.strip()}
        for name in empty:
            os.environ.pop(name, None)
        decided = _TELEMETRY in os.environ
        os.environ.setdefault(_TELEMETRY, "1")
        try:
            import huggingface_hub
            import huggingface_hub.constants  # what reads the environment: the package itself loads it only when used
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
    """The token that ``hf auth login`` stored, or that the environment's own means give.

    Raises:
        SettingError: The environment asks for a means that fails (OIDC).
    """
    try:
        token: str | None = load().get_token()
    except SettingError:
        raise
    except Exception as error:
        raise SettingError(f"huggingface_hub finds no token: {type(error).__name__}") from error
    return token
