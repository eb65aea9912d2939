import pytest
from pydantic import ValidationError
from tiny import SIZES, plan_keeping, ragged, signature_of
from transformers import BertConfig

from prune2deploy.errors import InputError
from prune2deploy.models.checkpoint import load_dense
from prune2deploy.models.family import blocks_of
from prune2deploy.models.plan import Plan, ranges_of, units_of
from prune2deploy.models.signature import signature_of as signature_of_config


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
    other = signature_of_config(BertConfig(**{**SIZES, "intermediate_size": 128}))
    with pytest.raises(
        InputError, match=rf"this plan is for {plan.signature.name}, the model is {other.name}"
    ):
        plan.check_fits(other)
    plan.check_fits(plan.signature.model_copy())


# precisions and shares of tokens


def test_plan_with_precisions_and_shares_of_tokens_survives_json(model):
    plan = plan_keeping(model, ragged)
    values = {"precisions": {"0.ffn": "int8", "2.attention": "fp16"}, "tokens": {"0.attention": 0.75, "1.attention": 0.5}}
    chosen = Plan(**{**plan.model_dump(), **values})
    assert Plan.model_validate_json(chosen.model_dump_json()) == chosen
    assert (chosen.precisions, chosen.tokens) == tuple(values.values())
    assert (plan.precisions, plan.tokens) == ({}, {})


@pytest.mark.parametrize(
    "tokens",
    [{"0.attention": 1}, {"0.attention": 0.5, "2.attention": 0.5}, {"2.ffn": 0.25, "0.ffn": 0.5}],
)
def test_shares_of_tokens_that_never_rise_are_taken_in_whatever_order(model, tokens):
    plan = plan_keeping(model, ragged)
    assert Plan(signature=plan.signature, kept=plan.kept, tokens=tokens).tokens == tokens


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"precisions": {"3.ffn": "int8"}}, "for a block that is not there"),
        ({"precisions": {"ffn": "int8"}}, "for a block that is not there"),
        ({"tokens": {"0.output": 0.5}}, "for a block that is not there"),
        ({"tokens": {"0.attention": 0.5, "1.attention": 0.75}}, "never rise"),
        ({"tokens": {"1.ffn": 0.75, "1.attention": 0.5}}, "never rise"),
        ({"tokens": {"0.attention": 0}}, "between 0 and 1"),
        ({"tokens": {"0.attention": -0.5}}, "between 0 and 1"),
        ({"tokens": {"0.attention": 1.5}}, "between 0 and 1"),
    ],
)
def test_precisions_and_shares_that_cannot_be_are_refused(model, choice, message):
    plan = plan_keeping(model, ragged)
    with pytest.raises(ValidationError, match=message):
        Plan(signature=plan.signature, kept=plan.kept, **choice)


def test_widths_by_key_are_in_forward_order(model):
    plan = plan_keeping(model, ragged)
    shuffled = Plan(signature=plan.signature, kept=dict(reversed(plan.kept.items())))
    assert list(shuffled.widths_by_key().items()) == [(block.key, ragged(block)) for block in blocks_of(model)]


def test_plan_of_another_version_is_refused(model):
    plan = plan_keeping(model, ragged)
    assert Plan(**{**plan.model_dump(), "schema_version": 1}) == plan
    for version in (0, 3):
        with pytest.raises(ValidationError, match="schema_version"):
            Plan(**{**plan.model_dump(), "schema_version": version})
