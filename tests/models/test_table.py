import json
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError
from transformers import BertConfig

from prune2deploy.config import Target, WorkloadPoint
from prune2deploy.errors import InputError, UnstableMeasurementError
from prune2deploy.files import write_record
from prune2deploy.models.configuration import load_config
from prune2deploy.models.family import families
from prune2deploy.models.plan import Plan
from prune2deploy.models.signature import Signature, signature_of
from prune2deploy.models.table import (
    Curve,
    LatencyTable,
    PlanCheck,
    PointTable,
    check_matches,
    launch_note,
    read_table,
    refuse_noisy,
    table_path,
)
from prune2deploy.runtimes.base import DeviceInfo, RuntimeInfo

BERT = {
    "family": "bert", "layers": 2, "hidden_size": 32, "heads": 4, "kv_heads": 4, "head_size": 8, "intermediate_size": 64,
    "activation": "gelu", "norm": "post", "outputs": 3,
}  # fmt: skip


def signature(**changes):
    return Signature.model_validate({**BERT, **changes})


SIGNATURE = signature()
DEVICE = DeviceInfo(kind="cpu", name="Some CPU", cores=2, memory_gb=8)
RUNTIME = RuntimeInfo(
    name="onnxruntime",
    version="1.31.1",
    provider="CPUExecutionProvider",
    threads=2,
    affinity=[0, 1],
    settings={},
)
BLOCKS = families()["bert"].blocks(
    BertConfig(num_hidden_layers=2, num_attention_heads=4, hidden_size=32, intermediate_size=64)
)


def curve(widths, ms, error=0.001):
    return Curve(widths=widths, ms=ms, standard_error_ms=[error] * len(widths))


def point(scale=1.0, **changes):
    return PointTable(
        point=WorkloadPoint(**{"batch": 1, "seq_len": 16, **changes}), fixed_ms=2.0 * scale,
        fixed_alone_ms=1.9 * scale,
        dense_ms=6.0 * scale, block_scale=1.0,
        curves={
            "attention": curve([0, 1, 2, 3, 4], [0, 0.3 * scale, 0.5 * scale, 0.7 * scale, 1.0 * scale]),
            "ffn": curve([0, 16, 32, 64], [0, 0.25 * scale, 0.5 * scale, 1.0 * scale]),
        },
    )  # fmt: skip


def table(**changes):
    values = {
        "signature": SIGNATURE, "device": DEVICE, "runtime": RUNTIME, "precision": "fp32", "checks": [],
        "points": [point(), point(scale=4, batch=8, weight=3.0)], "median_error": 0.01,
        "reference_spread": 0.02,
        "measured_at": "2026-01-01T00:00:00+00:00", "seconds": 60, "load_average": 0.1,
        "versions": {"torch": "2"},
    }  # fmt: skip
    return LatencyTable(**{**values, **changes})


# curves


@pytest.mark.parametrize(("width", "ms"), [(0, 0), (16, 1), (32, 3), (24, 2), (8, 0.5), (31, 2.875)])
def test_curve_interpolates_between_measured_widths(width, ms):
    assert curve([0, 16, 32], [0, 1, 3]).at(width) == pytest.approx(ms)


@pytest.mark.parametrize(
    ("widths", "ms", "errors", "problem"),
    [
        ([0, 1], [0, 1, 2], [0, 0], "differ in length"),
        ([0, 1], [0, 1], [0, 0, 0], "differ in length"),
        ([1, 2], [0, 1], [0, 0], "ascend from 0"),
        ([0, 2, 2], [0, 1, 2], [0, 0, 0], "ascend from 0"),
        ([0, 3, 2], [0, 1, 2], [0, 0, 0], "ascend from 0"),
        ([0, 1], [0.1, 1], [0, 0], "start at 0"),
        ([0, 1], [0, -1], [0, 0], "never be negative"),
        ([0, 1], [0, 1], [0, -1], "never be negative"),
        ([0, 1], [0, float("nan")], [0, 0], "finite"),
        ([0, 1], [0, float("inf")], [0, 0], "finite"),
        ([0], [0], [0], "at least 2"),
    ],
)
def test_curve_that_cannot_be_is_refused(widths, ms, errors, problem):
    with pytest.raises(ValidationError, match=problem):
        Curve(widths=widths, ms=ms, standard_error_ms=errors)


def test_point_needs_a_curve_of_each_kind():
    alone = point().model_copy(update={"curves": {"attention": point().curves["attention"]}})
    with pytest.raises(ValidationError, match="one curve for each of: attention, ffn"):
        table(points=[alone])


def test_curves_must_reach_the_dense_width():
    with pytest.raises(ValidationError, match="ffn curve does not end at the dense width 128"):
        table(signature=signature(intermediate_size=128))


# several curves of one name


def several(**changes):
    """The `ffn` curves of a point, for every choice of precision and share of tokens."""
    values = curve([0, 16, 32, 64], [0, 0.25, 0.5, 1.0]).model_dump()
    choices = [{}, {"precision": "int8", "ms": [0, 0.1, 0.2, 0.4]}, {"tokens": 0.5, "widths": [0, 64], "ms": [0, 0.5],
               "standard_error_ms": [0, 0]}, {"precision": "int8", "tokens": 0.5}]  # fmt: skip
    return [Curve(**{**values, **choice, **changes}) for choice in choices]


def with_ffn(curves):
    return PointTable(**{**point().model_dump(), "curves": {"attention": point().curves["attention"], "ffn": curves}})


def test_the_first_of_several_curves_is_that_of_the_tables_own_precision_and_all_tokens():
    found = table(points=[with_ffn(several())])
    assert found.points[0].curves["ffn"] == several()
    assert found.points[0].curve("ffn") == several()[0]
    assert found.run_ms("ffn", 32) == 0.5
    assert LatencyTable.model_validate_json(found.model_dump_json()) == found


def test_a_bare_curve_is_a_list_of_one():
    alone = several()[0]
    assert with_ffn(alone) == with_ffn([alone])
    assert with_ffn(alone.model_dump()) == with_ffn([alone])


@pytest.mark.parametrize("curves", [[], several()[:1] * 2, [*several(), several()[3]]])
def test_there_is_one_curve_for_each_choice(curves):
    with pytest.raises(ValidationError, match="one curve of ffn for each precision and share of tokens"):
        with_ffn(curves)


@pytest.mark.parametrize("tokens", [0, -0.5, 1.1])
def test_a_share_of_tokens_that_cannot_be_is_refused(tokens):
    with pytest.raises(ValidationError, match="tokens"):
        several(tokens=tokens)


def test_each_of_several_curves_reaches_the_dense_width():
    short = several()[1].model_copy(update={"widths": [0, 16, 32, 48]})
    with pytest.raises(ValidationError, match="ffn curve does not end at the dense width 64"):
        table(points=[with_ffn([several()[0], short])])


def test_each_of_several_curves_is_checked_for_noise():
    falling = several()[1].model_copy(update={"ms": [0, 1.0, 0.5, 2.0]})
    refuse_noisy(table(points=[with_ffn(several())]))
    with pytest.raises(UnstableMeasurementError, match="ffn at width 16"):
        refuse_noisy(table(points=[with_ffn([several()[0], falling])]))


def test_a_block_that_runs_again_and_again_costs_as_often():
    again = SIGNATURE.model_copy(update={"calls": {"0.ffn": 3}})
    found, block = table(signature=again, points=[point()]), replace(BLOCKS[1], calls=3)
    assert found.block_ms(block, 32) == pytest.approx(3 * 0.5)
    assert found.predict_ms({"0.ffn": 32, "1.ffn": 32}) == pytest.approx(2.0 + 3 * 0.5 + 0.5)


# look-ups


def test_prediction_is_the_fixed_part_and_every_block_weighted_over_the_workload():
    widths = {"0.attention": 2, "0.ffn": 16, "1.attention": 0, "1.ffn": 48}
    alone = 2.0 + 0.5 + 0.25 + 0.0 + 0.75
    assert table(points=[point()]).predict_ms(widths) == pytest.approx(alone)
    # the second point is 4 times as slow and counts 3 times as much
    both = table()
    assert both.predict_ms(widths) == pytest.approx((alone + 3 * 4 * alone) / 4)
    assert both.fixed_ms == pytest.approx((2 + 3 * 8) / 4)
    assert both.dense_ms == pytest.approx((6 + 3 * 24) / 4)
    assert both.block_ms(BLOCKS[0], 1) == both.run_ms("attention", 1) == pytest.approx((0.3 + 3 * 1.2) / 4)
    plan = Plan.of(SIGNATURE, {block: range(widths[block.key]) for block in BLOCKS})
    assert plan.widths_by_key() == widths
    assert both.widths("ffn") == [0, 16, 32, 64]


# the file


def test_table_comes_back_as_it_was_written(tmp_path):
    check = PlanCheck(
        point="batch 1 × 16",
        widths={"attention": [1, 2], "ffn": [0, 64]},
        predicted_ms=3,
        measured_ms=3.1,
        error=-0.03,
    )
    path = table_path(tmp_path, DEVICE, SIGNATURE, RUNTIME, "fp32")
    write_record(path, table(checks=[check]))
    assert read_table(path) == table(checks=[check])
    assert (
        path.relative_to(tmp_path).as_posix()
        == "some-cpu-2c/bert-l2-h32-a4x8-f64-gelu-o3.onnxruntime-2t.fp32.json"
    )


VERSION_1 = Path(__file__).parent / "data"


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_a_table_of_version_1_is_read_as_it_is_today(family, tmp_path):
    path = VERSION_1 / f"{family}-table-version-1.json"
    written, read = json.loads(path.read_text(encoding="utf-8")), read_table(path)
    assert (written["schema_version"], read.schema_version) == (1, 2)
    config = load_config(VERSION_1 / f"{family}-version-1")
    assert read.signature == signature_of(config)
    for entry, found in zip(written["points"], read.points, strict=True):
        assert found.curves == {kind: [Curve(**entry["curves"][kind])] for kind in ("attention", "ffn")}
        assert found.change_ms == {}
    widths = dict.fromkeys(read.signature.blocks, 0) | {"0.attention": 3, "1.ffn": 20}
    assert read.predict_ms(widths) == pytest.approx((1 + 2 * 3) / 3 * (2 + 0.5 + 0.65))
    write_record(tmp_path / "table.json", read)
    assert read_table(tmp_path / "table.json") == read
    assert table_path(tmp_path, read.device, read.signature, read.runtime, "fp32").name.startswith(read.signature.name)


def test_tables_of_different_things_have_different_files(tmp_path):
    paths = {
        table_path(tmp_path, DEVICE, SIGNATURE, RUNTIME, "fp32"),
        table_path(tmp_path, DEVICE.model_copy(update={"cores": 4}), SIGNATURE, RUNTIME, "fp32"),
        table_path(tmp_path, DEVICE, signature(layers=3), RUNTIME, "fp32"),
        table_path(tmp_path, DEVICE, SIGNATURE, RUNTIME.model_copy(update={"threads": 1}), "fp32"),
        table_path(tmp_path, DEVICE, SIGNATURE, RUNTIME, "fp16"),
    }
    assert len(paths) == 5


@pytest.mark.parametrize("version", [0, 3])
def test_table_of_an_unknown_version(tmp_path, version):
    path = tmp_path / "table.json"
    path.write_text(json.dumps({**table().model_dump(mode="json"), "schema_version": version}), encoding="utf-8")
    with pytest.raises(InputError, match="schema_version"):
        read_table(path)


def test_missing_table_says_how_to_measure_one(tmp_path):
    with pytest.raises(InputError, match="prune2deploy profile"):
        read_table(tmp_path / "table.json")


@pytest.mark.parametrize("content", ["", "{}", '{"schema_version": 2}', '{"schema_version": 3}', "[1]"])
def test_damaged_table(tmp_path, content):
    (tmp_path / "table.json").write_text(content)
    with pytest.raises(InputError, match="not a valid latency table") as caught:
        read_table(tmp_path / "table.json")
    assert "\n" not in str(caught.value)


# does it belong to the project?


def matches(tmp_path, workload=None, target=None, device=DEVICE, runtime=RUNTIME, signature=SIGNATURE):
    workload = workload or [WorkloadPoint(batch=1, seq_len=16)]
    return check_matches(
        table(), tmp_path / "t.json", signature, workload, target or Target(), device, runtime
    )


def test_fitting_table_takes_the_workload_of_the_project(tmp_path):
    wanted = [WorkloadPoint(batch=8, seq_len=16, weight=1.0), WorkloadPoint(batch=1, seq_len=16, weight=2.0)]
    fitted = matches(tmp_path, wanted)
    assert [entry.point for entry in fitted.points] == wanted
    assert fitted.dense_ms == pytest.approx((24 + 2 * 6) / 3)
    assert matches(tmp_path).dense_ms == pytest.approx(6)
    assert matches(tmp_path, device=None, runtime=None).dense_ms == pytest.approx(6)


def foreign(**changes):
    """A target that this version does not know, but a later one may."""
    return Target.model_construct(**{**Target().model_dump(), **changes})


def change(record, **changes):
    return record.model_copy(update=changes)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"signature": signature(layers=3)}, "bert-l2-.*and this one is bert-l3-"),
        ({"signature": signature(norm="pre")}, "made for model"),
        ({"target": foreign(runtime="tensorrt")}, "tensorrt"),
        ({"target": foreign(precision="fp16")}, "fp16"),
        (
            {"target": Target(device="gpu"), "device": None, "runtime": None},
            "made for a cpu, and the target is a gpu",
        ),
        ({"device": change(DEVICE, name="Other CPU")}, "this is Other CPU"),
        ({"device": change(DEVICE, cores=16)}, "16 cores"),
        ({"target": Target(threads=1)}, "2 threads, and the target has 1"),
        ({"runtime": change(RUNTIME, threads=4)}, "2 threads, and this run has 4"),
        ({"runtime": change(RUNTIME, version="1.0")}, "here is CPUExecutionProvider 1.0"),
        ({"runtime": change(RUNTIME, provider="Other")}, "here is Other 1.31.1"),
        (
            {"runtime": change(RUNTIME, settings={"enable_cuda_graph": "1"})},
            "made for enable_cuda_graph = not set, and this run has enable_cuda_graph = 1",
        ),
        (
            {"workload": [WorkloadPoint(batch=2, seq_len=16)]},
            r"batch 2 × 16 \(it has: batch 1 × 16, batch 8 × 16\)",
        ),
        ({"workload": [WorkloadPoint(batch=1, seq_len=16), WorkloadPoint(batch=1)]}, "has no batch 1"),
    ],
)
def test_table_for_something_else_is_refused(tmp_path, given, problem):
    with pytest.raises(InputError, match=problem) as caught:
        matches(tmp_path, **given)
    assert "prune2deploy profile" in str(caught.value)
    assert "\n" not in str(caught.value)


# is it good enough?


def noisy_point(ms, error):
    return point().model_copy(update={"curves": {**point().curves, "ffn": [curve([0, 16, 32, 64], ms, error)]}})


def test_good_table_is_accepted():
    refuse_noisy(table())
    refuse_noisy(
        table(points=[noisy_point([0, 1.0, 0.9, 2.0], error=0.001)])
    )  # a dip of 10 % is within the tolerance
    refuse_noisy(table(points=[noisy_point([0, 1.0, 0.5, 2.0], error=0.1)]))  # no wider than the noise


@pytest.mark.parametrize("ms", [[0, 1.0, 0.8, 2.0], [0, 1.0, 2.0, 1.0]])
def test_wider_blocks_that_are_clearly_faster_are_refused(ms):
    with pytest.raises(UnstableMeasurementError, match=r"contradicts itself \(batch 1 × 16\): ffn at width"):
        refuse_noisy(table(points=[noisy_point(ms, error=0.001)]))


def test_table_that_does_not_predict_whole_models_is_refused():
    refuse_noisy(table(median_error=0.05))
    with pytest.raises(UnstableMeasurementError, match=r"median error is 6.0 % \(limit 5 %\)"):
        refuse_noisy(table(median_error=0.06))


def on_h200(made, settings):
    runtime = made.runtime.model_copy(update={"name": "onnxruntime", "settings": settings})
    device = made.device.model_copy(update={"kind": "gpu", "name": "NVIDIA H200"})
    return made.model_copy(update={"device": device, "runtime": runtime})


def flat(made):
    """Another table whose blocks take the same time at every width but 0, as where launches do."""
    at_point = made.points[0]
    curves = {
        name: [each.model_copy(update={"ms": [0.0, *[0.2] * (len(each.ms) - 1)]}) for each in found]
        for name, found in at_point.curves.items()
    }
    return made.model_copy(update={"points": [at_point.model_copy(update={"curves": curves})]})


def test_half_of_every_block_is_as_fast_as_the_curves_say():
    found = table(points=[point()])
    at_point, units = found.points[0], found.signature.units
    saved = sum(
        at_point.curve(name).at(units(key)) - at_point.curve(name).at(units(key) // 2)
        for key, name in found.signature.blocks.items()
    )
    dense = found.predict_ms({key: units(key) for key in found.signature.blocks})
    assert found.halved_speedup == pytest.approx(dense / (dense - saved))


def test_launches_that_take_the_time_are_told_where_they_can_be_helped():
    found = table(points=[point()])
    assert "cuda_graphs = true" in launch_note(flat(on_h200(found, {})))
    assert launch_note(flat(on_h200(found, {"enable_cuda_graph": "1"}))) is None
    assert launch_note(flat(found)) is None, "a CPU"
