from __future__ import annotations

import time

import pytest

from modelfetch.manifest.yaml_nodes import MAX_BYTES, MAX_DEPTH, MAX_NODES, Mapping, Scalar, Sequence, parse
from tests.cases import each, first
from tests.manifest.helpers import problems


def found(text: str | bytes) -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    root, wrong = parse(data, "f")
    assert root is not None or wrong
    return [str(problem).removeprefix("f:") for problem in wrong]


def root(text: str) -> Mapping:
    mapping, wrong = parse(text.encode(), "f")
    assert wrong == ()
    assert mapping is not None
    return mapping


def test_keys_and_values_have_positions() -> None:
    (first, second) = root("# note\na: 1\nb:\n  - x\n  -   {c: 'd'}\n").entries
    assert (first.key, str(first.position), str(first.value.position)) == ("a", "f:2:1", "f:2:4")
    assert isinstance(second.value, Sequence)
    assert str(second.value.position) == "f:4:3"
    assert [str(item.position) for item in second.value.items] == ["f:4:5", "f:5:7"]


def test_an_empty_value_has_the_position_of_its_key() -> None:
    (entry, _) = root("a:\n\n\nb: 1\n").entries
    assert str(entry.value.position) == "f:1:1"


def test_only_plain_scalars_are_resolved() -> None:
    values = [entry.value for entry in root("a: 1\nb: '1'\nc: \"true\"\nd: |\n  1\ne: yes\n").entries]
    assert [value.value for value in values if isinstance(value, Scalar)] == [1, "1", "true", "1\n", "yes"]


def test_a_byte_order_mark_is_skipped() -> None:
    assert str(root("\ufeffa: 1").entries[0].position) == "f:1:1"


def test_lines_that_end_as_on_windows_count_once() -> None:
    assert str(root("a: 1\r\nb: 2\r\n").entries[1].position) == "f:2:1"


def test_an_alias_has_the_value_of_its_anchor() -> None:
    (_, second) = root("a: &x {k: [1]}\nb: *x\n").entries
    assert isinstance(second.value, Mapping)
    assert str(second.value.entries[0].position) == "f:1:8"


def test_an_anchor_may_be_set_again() -> None:
    values = [entry.value for entry in root("a: &x 1\nb: &x 2\nc: *x\n").entries]
    assert isinstance(values[2], Scalar)
    assert values[2].value == 2


def test_a_key_may_be_an_alias_of_text() -> None:
    assert [entry.key for entry in root("a: &x k\n*x : 1\n").entries] == ["a", "k"]


@each("text", ["", "\n\n", "# only a comment\n", "\ufeff", "%YAML 1.2\n"])
def test_an_empty_file_is_refused(text: str) -> None:
    assert len(found(text)) == 1


@each(
    ("text", "what"), [("- a\n", "a list"), ("just text", "'just text'"), ("---\n", "nothing"), ("42", "the number 42")]
)
def test_a_document_that_is_not_a_mapping_is_refused(text: str, what: str) -> None:
    (message,) = found(text)
    assert message.endswith(f"expected a mapping with version and models, found {what}")


def test_the_error_for_a_duplicate_key_names_both_places() -> None:
    assert found("a: 1\nb: {c: 1, c: 2}\n'a': 3\n") == [
        "2:11: expected each key once, found 'c' again (first: line 2, column 5)",
        "3:1: expected each key once, found 'a' again (first: line 1, column 1)",
    ]


def test_the_first_of_duplicate_keys_is_kept_so_that_the_rest_can_be_checked() -> None:
    mapping, wrong = parse(b"a: 1\na: 2\n", "f")
    assert len(wrong) == 1
    assert mapping is not None
    assert [entry.value.value for entry in mapping.entries if isinstance(entry.value, Scalar)] == [1]


@each(
    "value",
    [
        "!!str x",
        "!!int 3",
        "! x",
        "!x y",
        "!<tag:yaml.org,2002:str> x",
        "!!python/object/apply:os.system [id]",
        "!!binary aGk=",
        "!!set {a}",
        "!!omap [a: 1]",
        "!!timestamp 2024-01-01",
        "!!null",
        "!!map {}",
        "!!seq []",
        "&a !!str x",
    ],
)
def test_every_tag_is_refused(value: str) -> None:
    (message,) = found(f"a: 1\nb: {value}\n")
    assert message.startswith("2:4: expected no YAML tag, found '")


def test_a_tag_on_a_key_on_the_root_and_by_directive_is_refused_too() -> None:
    assert "expected no YAML tag" in found("!!str a: 1\n")[0]
    assert "expected no YAML tag" in found("!!map\na: 1\n")[0]
    assert "expected no YAML tag, found 'tag:x,2000:y'" in found("%TAG !e! tag:x,2000:\n---\na: !e!y 1\n")[0]


@each("key", ["1", "1.5", "true", "~", "", ".inf", "0x1"])
def test_a_key_must_be_text(key: str) -> None:
    (message,) = found(f"a: 1\n? {key}\n: 2\n")
    assert message.startswith("2:")
    assert "expected a key that is text, found" in message


@pytest.mark.parametrize("key", ["[a, b]", "{a: b}"])
def test_a_list_or_mapping_as_a_key_is_refused(key: str) -> None:
    assert found(f"? {key}\n: 2\n") == [
        f"1:3: expected a key that is text, found a {'list' if key[0] == '[' else 'mapping'}"
    ]


@each("key", ["yes", "on", "'1'", '"true"', "1_000", "<<"])
def test_any_yaml_1_2_text_may_be_a_key(key: str) -> None:
    assert found(f"{key}: 2\n") == []


def test_a_merge_key_is_not_applied() -> None:
    entries = root("a: &x {k: 1}\nb:\n  <<: *x\n").entries
    assert isinstance(entries[1].value, Mapping)
    assert [entry.key for entry in entries[1].value.entries] == ["<<"]


def test_a_merge_key_is_refused_with_the_reason() -> None:
    (message,) = problems("version: 1\nx-a: &x {vram: 8GiB}\n<<: *x\nmodels: []\n")
    assert message == "3:1: unknown key '<<'; YAML 1.2 has no merge keys"


def test_a_second_document_is_refused() -> None:
    assert found("a: 1\n---\nb: 2\n") == ["2:1: expected one YAML document, found a second one"]
    assert found("---\na: 1\n...\n") == []


@each(
    ("text", "message"),
    [
        ("a:\n\t- b\n", "2:1: invalid YAML: a tab at the beginning of a line; indent with spaces"),
        ("a: b\n\tc: d\n", "2:1: invalid YAML: a tab at the beginning of a line; indent with spaces"),
        ("a: Balanced: a model\n", "1:12: invalid YAML: a colon in a value; put the whole value in quotes"),
        ("- a: b: c\n", "1:7: invalid YAML: a colon in a value; put the whole value in quotes"),
        ("a: @x\n", "1:4: invalid YAML: text that begins with @ must be in quotes"),
        ("a: `x`\n", "1:4: invalid YAML: text that begins with ` must be in quotes"),
        ("a: 'it's'\n", "1:8: invalid YAML: text after a closing quote; put the whole value in quotes"),
        ("a: 'x\n", "2:1: invalid YAML: a quote is not closed"),
        ("a:\n  - b\n - c\n", "3:2: invalid YAML: the indentation does not match the lines above"),
        ("a: [1, 2\nb: 3\n", "2:2: invalid YAML: a list in [ ] is not closed, or a comma is missing"),
        ("a: {x: 1\n", "2:1: invalid YAML: a mapping in { } is not closed, or a comma is missing"),
        ("a:\n  b: 1\n   c: 2\n", "3:5: invalid YAML: this key is indented too deep, or the line above needs a colon"),
        ("a: |\nb\n  c", "3:4: invalid YAML: a line that is neither `key: value` nor part of a list or text"),
        ('a: "\\q"\n', "1:6: invalid YAML: while scanning a double-quoted scalar, found unknown escape character 'q'"),
    ],
)
def test_a_syntax_error_is_explained_in_words(text: str, message: str) -> None:
    assert found(text) == [message]


@each("version", ["1.1", "1.0", "1.3", "2.0"])
def test_another_yaml_version_is_refused(version: str) -> None:
    (message,) = found(f"%YAML {version}\n---\na: yes\n")
    assert message.startswith(("1:1: invalid YAML", "1:1: expected YAML 1.2"))


@each(
    ("data", "message"),
    [
        (b"a: \xff\n", "1:4: expected UTF-8 text, found the byte 0xff"),
        ("a: 1\nb: ü\n".encode("latin-1"), "2:4: expected UTF-8 text, found the byte 0xfc"),
        ("a: 1".encode("utf-16"), "1:1: expected UTF-8 text, found the byte 0xff"),
        ("a: 1".encode("utf-16-le"), "1:2: expected YAML text, found the control character U+0000"),
        (b"\xed\xa0\x80", "1:1: expected UTF-8 text, found the byte 0xed"),
        (b"a: 1\n\n  \0", "3:3: expected YAML text, found the control character U+0000"),
        (b"a: \x1b[31m", "1:4: expected YAML text, found the control character U+001B"),
        (b"\x89PNG\r\n\x1a\n", "1:1: expected UTF-8 text, found the byte 0x89"),
        (b"PK\x03\x04", "1:3: expected YAML text, found the control character U+0003"),
        (b"GGUF\x03\0\0\0", "1:5: expected YAML text, found the control character U+0003"),
        ("a: \ufffe".encode(), "1:4: expected YAML text, found the control character U+FFFE"),
        ("a: x\ufeff".encode(), "1:5: expected YAML text, found the control character U+FEFF"),
    ],
)
def test_invalid_bytes_are_reported_with_their_position(data: bytes, message: str) -> None:
    assert found(data) == [message]


@each(
    ("text", "place"),
    [
        ("a: [1\nb: 2\n", "2:"),
        ("a: b: c\n", "1:5"),
        ("a: 'x\n", ""),
        ("\ta: 1\n", "1:1"),
        ("a: *x\n", "1:4"),
        ("a: @x\n", "1:4"),
        ("a:\n  b: 1\n c: 2\n", "3:2"),
        ("{a: 1", "1:"),
        ('a: "\\q"\n', "1:"),
        ('a: "\\UFFFFFFFF"\n', "1:"),
        ("a: &\n", "1:"),
        ("%YAML x\n---\n", "1:"),
    ],
)
def test_a_syntax_error_is_a_problem_with_its_place(text: str, place: str) -> None:
    (message,) = found(text)
    assert message.startswith(place)


def test_a_glob_without_quotes_is_explained() -> None:
    assert found("a: [*.json]\n") == [
        "1:5: expected an alias of an anchor that was set before, found *.json (a glob is quoted)"
    ]


def test_a_file_beyond_the_limit_is_not_even_decoded() -> None:
    assert found(b"\xff" * (MAX_BYTES + 1)) == ["1:1: expected a manifest of at most 1 MiB, found a larger file"]
    assert found(b"a: 1 #" + b"x" * (MAX_BYTES - 6)) == []


def nested(depth: int) -> str:
    return "a: " + "[" * (depth - 1) + "]" * (depth - 1)


def test_nesting_depth_is_limited() -> None:
    assert found(nested(MAX_DEPTH)) == []
    assert "expected at most 64 levels" in found(nested(MAX_DEPTH + 1))[0]


def test_aliases_count_towards_the_nesting_depth() -> None:
    half = "[" * 40 + "]" * 40
    (message,) = found(f"a: &x {half}\nb: {'[' * 40}*x{']' * 40}\n")
    assert message.startswith("2:44: expected at most 64 levels")


@pytest.mark.parametrize("unit", first(2, ["[{a: ", "- ", "[", "{a: ", "? ", "a: {"]))
def test_extreme_nesting_is_refused_fast(unit: str) -> None:
    began = time.process_time()
    assert found(unit * (1_000_000 // len(unit)))
    assert time.process_time() - began < 5


def test_an_alias_bomb_is_refused_fast() -> None:
    lines = ["x-a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for before, name in zip("abcdefghijk", "bcdefghijkl", strict=True):
        lines.append(f"x-{name}: &{name} [{', '.join(['*' + before] * 10)}]")
    began = time.process_time()
    (message,) = found("\n".join(lines))
    assert f"at most {MAX_NODES:,} keys and values" in message
    assert time.process_time() - began < 1


def test_aliases_within_the_limit_are_fine() -> None:
    assert found("a: &a [" + "x, " * 99 + "x]\nb: [" + "*a, " * 99 + "*a]\n") == []


def test_a_recursive_alias_is_refused() -> None:
    assert "expected no recursion" in found("a: &x [1, *x]\n")[0]
    assert "expected no recursion" in found("a: &x {b: {c: *x}}\n")[0]
    assert "expected no recursion" in found("&x\na: *x\n")[0]


def test_a_number_with_too_many_digits_is_one_problem() -> None:
    assert found("a: " + "9" * 10_000)[0].startswith("1:4: expected a number of at most 64 characters")
