from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.demo.conftest import ask

if TYPE_CHECKING:
    from modelfetch.demo import Hub


@pytest.fixture
def resolve(hub: Hub) -> str:
    hub.world.hf_repo("org/name", {"model.bin": b"weights"})
    return f"{hub.endpoint}/org/name/resolve/main/model.bin"


def location(resolve: str) -> str:
    return ask(resolve).headers["location"]


def test_a_signed_address_can_be_used_again(resolve: str) -> None:
    address = location(resolve)
    assert [ask(address).body for _ in range(2)] == [b"weights"] * 2


def test_credentials_together_with_a_signature_are_refused(resolve: str) -> None:
    answer = ask(location(resolve), Authorization="Bearer hf_secret")
    assert (answer.status, b"Only one auth mechanism allowed" in answer.body) == (400, True)


@pytest.mark.parametrize("damage", ["X-Amz-Signature=", "until=1", "serial=", "/xet-bridge-us/"])
def test_a_changed_address_is_refused(resolve: str, damage: str) -> None:
    address = location(resolve)
    assert damage in address
    answer = ask(address.replace(damage, damage + "0"))
    assert (answer.status, b"SignatureDoesNotMatch" in answer.body) == (403, True)


def test_signed_addresses_expire_on_request_and_new_ones_work(hub: Hub, resolve: str) -> None:
    old = location(resolve)
    hub.expire_urls()
    answer = ask(old)
    assert (answer.status, b"Request has expired" in answer.body) == (403, True)
    assert ask(location(resolve)).body == b"weights"


def test_nothing_is_found_without_a_signature(hub: Hub) -> None:
    assert ask(hub.cdn + "/xet-bridge-us/x").status == 403


def test_only_reading_is_allowed(resolve: str) -> None:
    assert ask(location(resolve), method="PUT", body="x").status == 405
