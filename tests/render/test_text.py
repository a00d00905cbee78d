"""Tables as a terminal shows them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from modelfetch.core.report import ArtifactReport, ModelReport, Report
from modelfetch.errors import CredentialsError, NotFoundError
from modelfetch.pipeline.status import ModelStatus
from modelfetch.render.errors import error_lines, show_errors
from modelfetch.render.status import status_table
from modelfetch.render.summary import plan_table, summary
from modelfetch.render.text import fold, table, terminal_width

if TYPE_CHECKING:
    import pytest

ROWS = [("8g", "ollama, whisper, stable-diffusion, comfyui"), ("16g", "ollama")]


def test_a_last_column_that_is_too_long_goes_on_below_itself() -> None:
    shown = table(("TIER", "SERVICES"), ROWS, width=30).splitlines()
    assert shown[1:4] == ["8g    ollama, whisper,", "      stable-diffusion,", "      comfyui"]
    assert max(map(len, shown)) <= 30


def test_a_path_is_folded_after_a_slash_and_wide_characters_count_twice() -> None:
    assert fold("models/checkpoints/sd.safetensors", 20) == ["models/checkpoints/", "sd.safetensors"]
    assert fold("models/模型文件名", 8) == ["models/", "模型文件", "名"]
    assert fold("模", 1) == ["模"]
    assert fold("one two", 7) == ["one two"]
    assert fold("hub/models--acme--faster-whisper", 24) == ["hub/models--acme--", "faster-whisper"]


def test_without_a_terminal_every_row_is_one_line() -> None:
    assert len(table(("TIER", "SERVICES"), ROWS).splitlines()) == 3
    assert terminal_width(io.StringIO()) is None


def test_a_narrow_terminal_shows_cells_one_below_the_other() -> None:
    rows = [("whisper", "faster-whisper-tiny", "1.2 MiB", "hub/models--x"), ("ollama", "llama", "434.6 KiB", "models")]
    shown = table(("SERVICE", "MODEL", "SIZE", "WHERE"), rows, right=(2,), width=30).splitlines()
    assert shown == [
        *("SERVICE  MODEL  SIZE  WHERE", "whisper  faster-whisper-tiny", "  1.2 MiB  hub/models--x"),
        *("ollama  llama  434.6 KiB", "  models"),
    ]


def test_a_long_name_is_wrapped_before_the_table_becomes_a_list() -> None:
    rows = [("a-very-long-model-name-of-somebody", "comfyui", "40.0 MiB"), ("cjk", "ollama", "1 B")]
    shown = table(("MODEL", "FOR", "SIZE"), rows, right=(2,), width=46).splitlines()
    assert shown == [
        "MODEL                        FOR          SIZE",
        "a-very-long-model-name-of-   comfyui  40.0 MiB",
        "somebody",
        "cjk                          ollama        1 B",
    ]


def test_columns_are_narrowed_before_the_table_becomes_a_list() -> None:
    assert table(("A", "B", "C"), [("1", "2", "3")], width=5).splitlines() == ["A B C", "1 2 3"]


def test_wide_characters_keep_the_columns_in_line() -> None:
    shown = table(("MODEL", "SIZE"), [("語音", "1"), ("abcdef", "22")], right=(1,)).splitlines()
    assert shown == ["MODEL   SIZE", "語音       1", "abcdef    22"]


def model(name: str, *, ok: bool, action: str, size: int | None) -> ModelReport:
    artifact = ArtifactReport(uri="u", served_by=None, digest=None, size=size, action=action)
    return ModelReport(name=name, ok=ok, artifacts=(artifact,))


def test_the_summary_does_not_count_skipped_models() -> None:
    models = (model("a", ok=True, action="present", size=1), model("b", ok=False, action="failed", size=None))
    text = summary(Report(ok=True, exit_code=0, tier="16g", root="r", models=models))
    assert text.startswith("16g: 1 model verified and in place in r (1 optional left out); ")


def test_an_unknown_size_is_a_question_mark() -> None:
    report = Report(
        ok=False, exit_code=69, tier=None, root="r", models=(model("a", ok=False, action="failed", size=None),)
    )
    assert plan_table(report, ()).splitlines()[1].split() == ["a", "failed", "1", "?", "-"]


def test_an_error_names_its_model_first_unless_it_begins_so_already() -> None:
    said = CredentialsError("acme/gated is gated, and no token is set", model="gated", hint="h")
    assert error_lines(said) == ["error: gated: acme/gated is gated, and no token is set", "hint: h"]
    assert error_lines(NotFoundError("a does not exist", model="a", hint="h"))[0] == "error: a does not exist"
    assert error_lines(NotFoundError("a.pt is gone", model="a", hint="h"))[0] == "error: a: a.pt is gone"


def test_a_shared_hint_is_printed_once_after_the_last_error(capsys: pytest.CaptureFixture[str]) -> None:
    show_errors(tuple(NotFoundError(text, hint="look") for text in ("one", "two")))
    assert capsys.readouterr().err == "error: one\nerror: two\nhint: look\n"


def test_a_quiet_status_lists_only_models_that_are_not_ready() -> None:
    lines = [
        ModelStatus(model=name, consumer="comfyui", state=state, files=1, size=1, unpinned=False)
        for name, state in (("a", "ready"), ("b", "missing"))
    ]
    report = Report(ok=False, exit_code=1, tier=None, root="r")
    shown = status_table(report, lines, only_bad=True).splitlines()
    assert [row.split()[0] for row in shown] == ["MODEL", "b", "1"]
    assert shown[-1] == "1 of 2 ready in r"
    assert status_table(report, lines[:1], only_bad=True) == ""
