from __future__ import annotations

import pytest

from modelfetch.core.cancel import Cancel
from modelfetch.errors import InterruptedSync


def test_cancelling_calls_each_registered_callback_once() -> None:
    cancel, calls = Cancel(), []
    leave = cancel.on_cancel(lambda: calls.append("left"))
    cancel.on_cancel(lambda: calls.append("stayed"))
    leave()
    cancel.set()
    cancel.set()
    assert calls == ["stayed"]
    cancel.on_cancel(lambda: calls.append("late"))
    assert calls == ["stayed", "late"]


def test_cancelling_a_parent_cancels_its_children_with_the_same_code() -> None:
    parent = Cancel()
    child, other = parent.child(), parent.child()
    other.release()
    child.check()
    parent.set(code="terminated", exit_code=143)
    assert child.is_set()
    assert not other.is_set()
    assert child.wait(0)
    with pytest.raises(InterruptedSync) as caught:
        child.check()
    assert (caught.value.code, caught.value.exit_code) == ("terminated", 143)


def test_cancelling_a_child_does_not_cancel_its_parent() -> None:
    parent = Cancel()
    parent.child().set()
    assert not parent.is_set()
