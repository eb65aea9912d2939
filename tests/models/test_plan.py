import pytest
from pydantic import ValidationError
from tiny import plan_keeping, ragged, signature_of

from prune2deploy.errors import InputError
from prune2deploy.models.checkpoint import load_dense
from prune2deploy.models.family import blocks_of
from prune2deploy.models.plan import Plan, ranges_of, units_of


@pytest.fixture(scope="module")
def model(bert_dir):
    return load_dense(bert_dir)


@pytest.mark.parametrize(
    ("units", "ranges"),
    [([], ""), ([4], "4"), ([0, 1, 2, 5], "0-2,5"), ([7, 1, 3, 2, 1], "1-3,7"), ([0, 2, 4], "0,2,4")],
)
def test_units_are_written_as_ranges_and_read_back(units, ranges):
    assert ranges_of(units) == ranges
    assert units_of(ranges) == sorted(set(units))


@pytest.mark.parametrize(
    "ranges",
    [
        "x", "-1", "3-1", "1,1", "2,1", "0-3,2", "1.5", "²", "0-99999999999",
        "1-", "1,,2", "1,", ",1",
    ],
)  # fmt: skip
def test_damaged_ranges_are_refused(ranges):
    with pytest.raises(ValueError, match=r"out of order|not a unit"):
        units_of(ranges)


def test_plan_knows_what_each_block_keeps(model):
    blocks = blocks_of(model)
    plan = Plan.of(
        signature_of(model), {block: [1, 3] if block.kind == "attention" else [] for block in blocks}
    )
    assert len(blocks) == 6
    for block in blocks:
        expected = [1, 3] if block.kind == "attention" else []
        assert plan.units(block) == expected
        assert plan.widths(blocks)[block] == plan.width(block) == len(expected)


def test_plan_survives_json(model):
    plan = plan_keeping(model, ragged)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_blocks_are_in_the_order_in_which_the_model_runs_them(model):
    assert [block.key for block in blocks_of(model)][:3] == ["0.attention", "0.ffn", "1.attention"]
    sizes = {(block.kind, block.units, block.unit_size) for block in blocks_of(model)}
    assert sizes == {("attention", 4, 8), ("ffn", 64, 1)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"3.ffn": "0"}, "do not match the model signature"),
        ({"0.ffn": "0-64"}, "block 0.ffn: unit 64 is kept, but the block has only 64"),
        ({"1.attention": "0-1,1"}, "block 1.attention: '1' is out of order"),
        ({"1.attention": "all"}, "block 1.attention: 'all' is not a unit"),
    ],
)
def test_plan_that_does_not_fit_its_own_signature_is_refused(model, change, message):
    plan = plan_keeping(model, ragged)
    with pytest.raises(ValidationError, match=message):
        Plan(signature=plan.signature, kept={**plan.kept, **change})


def test_plan_with_a_block_missing_is_refused(model):
    plan = plan_keeping(model, ragged)
    with pytest.raises(ValidationError, match="do not match the model signature"):
        Plan(signature=plan.signature, kept={key: kept for key, kept in plan.kept.items() if key != "2.ffn"})


def test_plan_for_another_model_names_both(model):
    plan = plan_keeping(model, ragged)
    other = plan.signature.model_copy(update={"intermediate_size": 128})
    with pytest.raises(
        InputError, match=rf"this plan is for {plan.signature.name}, the model is {other.name}"
    ):
        plan.check_fits(other)
    plan.check_fits(plan.signature.model_copy())
