from __future__ import annotations

import pytest

from modelfetch.http.redirects import leads_elsewhere, method_after, next_hop, rewrite


def test_a_prefix_ends_at_a_boundary() -> None:
    rules = [("https://a.example", "https://b.example")]
    assert rewrite("https://a.example/x", rules) == "https://b.example/x"
    assert rewrite("https://a.example?x", rules) == "https://b.example?x"
    assert rewrite("https://a.example.org/x", rules) == "https://a.example.org/x"


def test_a_relative_location_is_resolved() -> None:
    assert next_hop("https://a/b/c?d", "../e", lambda _h, _p: False) == "https://a/e"
    assert next_hop("https://a/b", "http://127.0.0.1:5/x", lambda _h, _p: False) == "http://127.0.0.1:5/x"
    assert next_hop("https://a/b", "http://lan/x", lambda host, port: (host, port) == ("lan", 80)) == "http://lan/x"


@pytest.mark.parametrize(
    ("status", "method", "after"),
    [
        (301, "GET", "GET"),
        (302, "POST", "GET"),
        (303, "POST", "GET"),
        (303, "HEAD", "HEAD"),
        (307, "POST", "POST"),
        (308, "POST", "POST"),
    ],
)
def test_the_method_after_a_redirect(status: int, method: str, after: str) -> None:
    assert method_after(status, method) == after


@pytest.mark.parametrize(
    ("location", "elsewhere"),
    [
        ("/b", False),
        ("https://h/b", False),
        ("https://h:443/b", False),
        ("http://h/b", True),
        ("//cdn/b", True),
        ("https://h.cdn/b", True),
        ("http://[", False),
        ("ftp://x", False),
    ],
)
def test_a_redirect_to_another_host_is_recognised(location: str, elsewhere: bool) -> None:
    assert leads_elsewhere("https://h/a", location) is elsewhere
