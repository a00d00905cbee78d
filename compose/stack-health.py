"""Health check of a GPU service: `stack-health URL-OR-FILE`.

Fails unless the page answers (or the file has content) and the container can open each of its GPU devices. After a
`systemctl daemon-reload` on the host it may no longer be allowed to, although the service still answers.
"""

import os
import sys
import urllib.request
from pathlib import Path

DEVICES = ("nvidiactl", "nvidia[0-9]*", "kfd", "dri/renderD*", "dxg")


def check_devices(folder: Path = Path("/dev")) -> None:
    """Open and close each GPU device of this container.

    Raises:
        OSError: A device can't be opened.
    """
    for pattern in DEVICES:
        for device in folder.glob(pattern):
            os.close(os.open(device, os.O_RDWR))


def check_target(target: str) -> None:
    """Read a page or look at a file.

    Raises:
        OSError: The page does not answer, or the file is missing or empty.
    """
    if target.startswith("http://"):
        proxyless = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        proxyless.open(target, timeout=5).close()
    elif Path(target).stat().st_size == 0:
        raise OSError(f"{target} is empty")


def main() -> None:
    """Exit with 0 when healthy, else with 1 and a line that Docker keeps with the health status."""
    try:
        check_devices()
        check_target(sys.argv[1])
    except OSError as error:
        sys.exit(f"unhealthy: {error}")


if __name__ == "__main__":
    main()
