"""The labels of services for Traefik and Glance."""

from __future__ import annotations

from tests.compose.compose_files import services
from tests.compose.expected import ENDING, every


def test_every_web_page_has_labels_for_traefik_and_glance() -> None:
    routers = []
    for name, service in every().items():
        if not service.get("ports"):
            continue
        labels = service["labels"]
        port = service["ports"][0].rpartition(":")[2]
        assert {"glance.name", "glance.icon", "glance.url", "glance.description"} <= set(labels), name
        assert labels[f"traefik.http.services.{router_of(labels)}.loadbalancer.server.port"] == port
        assert labels["traefik.enable"] == "false"
        routers.append((router_of(labels), labels[f"traefik.http.routers.{router_of(labels)}.rule"]))
    assert len({router for router, _ in routers}) == len({rule for _, rule in routers}) == len(routers) > 0


def test_traefik_publishes_only_services_with_a_web_page() -> None:
    published = {
        name for name, body in every().items() if any(label.startswith("traefik.") for label in body.get("labels", {}))
    }
    assert published == {name for name, body in every().items() if body.get("ports")}


def test_parents_in_glance_exist() -> None:
    labels = {name: body.get("labels", {}) for name, body in every().items()}
    known = {own["glance.id"] for own in labels.values() if "glance.id" in own}
    parents = {own["glance.parent"] for own in labels.values() if "glance.parent" in own}
    assert parents == known == {"ollama", "librechat", "immich"}


def test_every_icon_of_glance_was_looked_up_in_its_collection() -> None:
    icons = {body["labels"]["glance.icon"] for body in every().values() if "glance.icon" in body.get("labels", {})}
    simple_icons = {"si:ollama", "si:googlechat", "si:bookstack", "si:readthedocs", "si:immich"}  # 16.37.0
    material_design = {"mdi:image-multiple", "mdi:graph-outline", "mdi:microphone", "mdi:chat"}  # 7.4.47
    assert icons == simple_icons | material_design


def router_of(labels: dict[str, str]) -> str:
    """The name of a service's router."""
    return next(key.split(".")[3] for key in labels if key.startswith("traefik.http.routers."))


def test_traefik_can_publish_a_single_service() -> None:
    for name, body in services(WHISPERX_TRAEFIK_ENABLE="true").items():
        if body.get("ports"):
            assert body["labels"]["traefik.enable"] == ("true" if name == "whisperx" else "false")


def test_traefik_requires_a_login_where_the_service_has_none() -> None:
    own_login = {"open-webui", "librechat", "immich-server"}
    for name, body in services(TRAEFIK_ENABLE="true", TRAEFIK_LOGIN_USERS="me:$2y$05$hash").items():
        if not body.get("ports"):
            continue
        labels = body["labels"]
        assert labels["traefik.enable"] == "true"
        middleware = labels.get(f"traefik.http.routers.{router_of(labels)}.middlewares")
        users = labels.get("traefik.http.middlewares.ai-stack-login.basicauth.users")
        expected = (None, None) if name in own_login else ("ai-stack-login@docker", "me:$2y$05$hash")
        assert (middleware, users) == expected, name


def test_glance_warns_of_no_service_that_has_ended_as_it_should() -> None:
    assert {name for name, body in every().items() if body.get("labels", {}).get("glance.hide") == "true"} == ENDING
