"""The override files reach every service that they are for."""

from __future__ import annotations

from ruamel.yaml import YAML

from tests.cases import each
from tests.compose.compose_files import OVERRIDES, REPOSITORY
from tests.compose.expected import GPU_SERVICES, INITS, binds, every


@each("override", [name for name in OVERRIDES if name not in ("selinux.yml", "podman.yml")])
def test_an_override_for_downloads_is_for_every_init_service(override: str) -> None:
    text = (REPOSITORY / "compose" / override).read_text()
    assert set(INITS) <= set(YAML(typ="safe").load(text)["services"])


def test_the_override_for_podman_is_for_every_gpu_service_of_nvidia() -> None:
    text = (REPOSITORY / "compose" / "podman.yml").read_text().replace("!reset null", "null")
    reserving = {name for name, body in every().items() if body["device"].get("deploy")}
    assert set(YAML(typ="safe").load(text)["services"]) == reserving == {"ollama", *GPU_SERVICES}


def test_the_override_for_selinux_repeats_every_mount() -> None:
    labelled = YAML(typ="safe").load((REPOSITORY / "compose" / "selinux.yml").read_text())["services"]
    for name, body in every().items():
        expected = {target for source, target in binds(body) if source != "/etc/localtime"}
        assert {mount.split(":")[-2] for mount in labelled.get(name, {}).get("volumes", [])} == expected, name
