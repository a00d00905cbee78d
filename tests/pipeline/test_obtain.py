"""Two models that want the same bytes share one transfer, but not the faults of one model's source."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from modelfetch.demo import models as made

if TYPE_CHECKING:
    from tests.pipeline.conftest import Bench

WEIGHTS = made.vae()
GOOD = bytes(WEIGHTS.read(0, WEIGHTS.size))
BAD = GOOD[:-1] + bytes([GOOD[-1] ^ 1])
DIGEST = "sha256:" + hashlib.sha256(GOOD).hexdigest()


def entry(bench: Bench, name: str, content: bytes = GOOD, **keys: Any) -> dict[str, Any]:
    bench.world.file(f"{name}.safetensors", content)
    source = f"{bench.hub.files}{name}.safetensors"
    return {"name": name, "kind": "vae", "source": source, "digest": DIGEST, "for": ["comfyui"], **keys}


def placed(bench: Bench) -> set[str]:
    return {path.name for path in (bench.root / "comfyui").rglob("*.safetensors")}


def test_the_second_model_is_fetched_from_its_own_source_when_the_firsts_fails(bench: Bench) -> None:
    result = bench.sync(entry(bench, "bad", BAD), entry(bench, "good"), options=("--keep-going",))
    assert (result.code, result.codes()) == (65, ["digest-mismatch"])
    assert placed(bench) == {"good.safetensors"}
    assert [error["model"] for error in result.report["errors"]] == ["bad"]


def test_an_optional_models_source_fails_no_other_model(bench: Bench) -> None:
    result = bench.sync(entry(bench, "bad", BAD, optional=True), entry(bench, "good"))
    assert (result.code, placed(bench)) == (0, {"good.safetensors"}), result.err


def test_models_that_share_a_source_cause_one_request(bench: Bench) -> None:
    bad = entry(bench, "bad", BAD)
    models = [{**bad, "name": f"m{n}", "filename": f"m{n}.safetensors"} for n in range(3)]
    result = bench.sync(*models, entry(bench, "worse", BAD), options=("--keep-going",))
    assert set(result.codes()) == {"digest-mismatch"}
    for name in ("bad", "worse"):
        assert bench.hub.log.sent(f"*{name}.safetensors*") < 2.5 * len(BAD)
    assert not (bench.root / "comfyui").exists()


def test_a_shared_body_is_fetched_once_after_a_rejected_model(bench: Bench) -> None:
    models = (entry(bench, "bad", BAD), entry(bench, "good"), entry(bench, "also"))
    assert bench.sync(*models, options=("--keep-going",)).code == 65
    assert placed(bench) == {"good.safetensors", "also.safetensors"}
    assert min(bench.hub.log.sent(f"*{name}.safetensors*") for name in ("good", "also")) < 1000


def test_a_pickle_allowed_by_one_entry_is_fetched_although_another_refuses_it(bench: Bench) -> None:
    bench.world.file("x.bin", b"\x80\x02}q\x00." + b"\0" * 70_000)
    one = {"name": "one", "kind": "vae", "source": f"{bench.hub.files}x.bin", "for": ["comfyui"]}
    two = {**one, "name": "two", "filename": "two.bin", "allow_pickle": True}
    result = bench.sync(one, two, options=("--keep-going",))
    assert result.codes() == ["pickle-not-allowed"]
    assert [path.name for path in (bench.root / "comfyui").rglob("*.bin")] == ["two.bin"]
