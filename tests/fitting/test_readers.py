"""Reading a file by range: which requests are sent, what is refused, and how faults of a server are handled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from modelfetch.core.artifact import Location
from modelfetch.core.cancel import Cancel
from modelfetch.demo.body import PatternBody
from modelfetch.demo.faults import DropAfter
from modelfetch.demo.hub import Hub
from modelfetch.demo.world import World
from modelfetch.errors import (
    IntegrityError,
    InterruptedSync,
    ModelfetchError,
    NotAModelError,
    NotFoundError,
    UnreachableError,
)
from modelfetch.fitting.readers import BrokenReader, HttpReader
from modelfetch.formats.gguf import read_gguf
from modelfetch.formats.range_reader import HeaderBuffer
from modelfetch.http import Http
from tests.faults import ChangedETag, Gzip, HtmlPage, IgnoreRange, Status, Truncated, WrongContentRange
from tests.http.test_hostile_headers import answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SIZE = 9 * 2**20 + 5
BODY = PatternBody(SIZE)


@pytest.fixture
def hub() -> Iterator[Hub]:
    world = World()
    world.file("a.gguf", BODY)
    world.file("b.gguf", BODY)
    with Hub(world) as hub:
        yield hub


class Make:
    """Makes readers of the hub's files, and closes what they opened."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._http = Http()
        self._made: list[HttpReader] = []

    def __call__(
        self,
        *names: str,
        size: int | None = SIZE,
        attempts: int = 1,
        cancel: Cancel | None = None,
        more: Callable[[], Sequence[Location]] = lambda: (),
    ) -> HttpReader:
        places = [Location(uri=f"file {name}", url=f"{self._hub.files}{name}") for name in names or ("a.gguf",)]
        made = HttpReader(self._http, places, more=more, size=size, attempts=attempts, cancel=cancel or Cancel())
        self._made.append(made)
        return made

    def close(self) -> None:
        for made in self._made:
            made.close()
        self._http.close()


@pytest.fixture
def reader(hub: Hub) -> Iterator[Make]:
    make = Make(hub)
    yield make
    make.close()


def test_ranges_are_requested_and_nothing_else_is_sent(hub: Hub, reader: Make) -> None:
    one = reader()
    assert one.read(0, 100) == BODY.read(0, 100)
    assert one.read(100, 5000) == BODY.read(100, 5000)
    assert [r.range for r in hub.log.requests()] == ["bytes=0-99", "bytes=100-5099"]
    assert one.fetched == 5100


def test_all_ranges_of_a_host_use_one_connection(hub: Hub, reader: Make) -> None:
    for name in ("a.gguf", "b.gguf"):
        one = reader(name)
        one.read(0, 100)
        one.read(100, 5000)
    assert len({r.connection for r in hub.log.requests()}) == 1


def test_reading_beyond_the_end_returns_nothing(reader: Make) -> None:
    one = reader()
    assert one.read(SIZE - 3, 100) == BODY.read(SIZE - 3, 3)
    assert one.read(SIZE, 10) == b""
    assert one.read(5, 0) == b""


def test_an_unknown_size_is_taken_from_the_response(hub: Hub, reader: Make) -> None:
    one = reader(size=None)
    one.read(0, 10)
    assert one.size == SIZE


def test_a_server_without_ranges_is_read_as_one_stream(hub: Hub, reader: Make) -> None:
    hub.faults.add("*a.gguf", IgnoreRange(), times=None)
    one = reader(size=None)
    assert one.read(0, 64 * 1024) == BODY.read(0, 64 * 1024)
    assert one.read(64 * 1024, 4 * 2**20) == BODY.read(64 * 1024, 4 * 2**20)
    assert len(hub.log.requests()) == 1
    one.close()
    assert one.read(1000, 10) == BODY.read(1000, 10)  # only a jump begins again
    one.close()


def test_another_size_than_the_pinned_one_is_refused(hub: Hub, reader: Make) -> None:
    for fault in ((), (IgnoreRange(),)):
        for each in fault:
            hub.faults.add("*a.gguf", each)
        with pytest.raises(IntegrityError, match="expected 77") as bad:
            reader(size=77).read(0, 10)
        assert bad.value.code == "size-mismatch"


def test_a_temporary_failure_of_a_range_is_retried(hub: Hub, reader: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    def wait(_self: Cancel, seconds: float) -> bool:
        waited.append(seconds)
        return False

    monkeypatch.setattr(Cancel, "wait", wait)
    one = reader(attempts=2)
    for position, fault in enumerate([Status(code=503), DropAfter(bytes=10)]):
        hub.faults.add("*a.gguf", fault)
        assert one.read(100 * position, 100) == BODY.read(100 * position, 100)
    assert [int(seconds) for seconds in waited] == [1, 1]


@pytest.mark.parametrize("fault", [WrongContentRange(), Gzip(), Truncated(size=50)])
def test_a_response_for_another_range_is_refused(hub: Hub, reader: Make, fault: object) -> None:
    hub.faults.add("*a.gguf", fault, times=None)  # type: ignore[arg-type]
    with pytest.raises(ModelfetchError) as bad:
        reader().read(0, 100)
    assert bad.value.exit_code in (65, 69)


@pytest.mark.parametrize("field", ["bytes 5-3/10", "bytes 5-9/9", "bytes */10"])
def test_an_impossible_part_is_not_the_end_of_the_file(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    http = Http()
    monkeypatch.setattr(http, "open", lambda *_, **__: answer(206, [(b"Content-Range", field.encode())]))
    place = Location(uri="https://h.example/x", url="https://h.example/x")
    with pytest.raises(UnreachableError, match="sent other bytes"):
        HttpReader(http, [place], size=None, attempts=1, cancel=Cancel()).read(5, 10)


def test_the_next_location_is_tried_after_a_failure_and_then_the_mirrors(hub: Hub, reader: Make) -> None:
    mirror = Location(uri="mirror", url=f"{hub.files}b.gguf")
    assert reader("none.gguf", "b.gguf").read(0, 9) == BODY.read(0, 9)
    assert reader("none.gguf", more=lambda: [mirror]).read(0, 9) == BODY.read(0, 9)


def test_when_all_locations_fail_the_first_error_is_raised_each_time(hub: Hub, reader: Make) -> None:
    one = reader("none.gguf", "nor.gguf")
    for _ in range(2):
        with pytest.raises(NotFoundError) as bad:
            one.read(0, 10)
        assert bad.value.uri == "file none.gguf"


def test_a_file_that_is_replaced_between_two_ranges_is_refused(hub: Hub, reader: Make) -> None:
    one = reader()
    one.read(0, 100)
    hub.faults.add("*a.gguf", ChangedETag(), times=None)
    with pytest.raises(IntegrityError, match="was changed"):
        one.read(100, 100)


def test_a_web_page_in_place_of_a_model_is_no_model(hub: Hub, reader: Make) -> None:
    hub.faults.add("*a.gguf", HtmlPage(), times=None)
    with pytest.raises(NotAModelError):
        read_gguf(HeaderBuffer(reader(size=None)))


def test_a_cancelled_read_ends(hub: Hub, reader: Make) -> None:
    cancel = Cancel()
    cancel.set()
    with pytest.raises(InterruptedSync):
        reader(cancel=cancel).read(0, 10)


def test_a_broken_reader_gives_the_reason() -> None:
    prefix = HeaderBuffer(BrokenReader(UnreachableError("gone"), 10))
    with pytest.raises(UnreachableError, match="gone"):
        prefix.upto(4)
