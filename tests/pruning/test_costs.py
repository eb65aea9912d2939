import pytest
import synthetic
import torch
from synthetic import blocks_in
from transformers import LlamaConfig, LlamaModel

from prune2deploy.config import WorkloadPoint
from prune2deploy.models.family import blocks_of
from prune2deploy.pruning.search.costs import FlopCosts, LatencyCosts, macs_of

SIGNATURE = synthetic.signature(layers=3, heads=4, filters=64, hidden=32)
ATTENTION, FFN = blocks_in(SIGNATURE)[:2]
TOKENS = 10.5


def macs(attention_widths, ffn_widths):
    """Multiply-accumulates of BERT-shaped blocks, written down matrix product by matrix product."""
    total = 0.0
    for heads in attention_widths:
        projected = heads * 8
        total += 3 * TOKENS * 32 * projected  # query, key, value
        total += 2 * TOKENS * TOKENS * projected  # scores, context
        total += TOKENS * projected * 32  # output
    for filters in ffn_widths:
        total += TOKENS * 32 * filters + TOKENS * filters * 32
    return total


def test_the_dense_model_costs_one():
    costs = synthetic.flop_costs(SIGNATURE, TOKENS)
    assert costs.total({block: block.units for block in blocks_in(SIGNATURE)}) == pytest.approx(1)
    assert costs.total(dict.fromkeys(blocks_in(SIGNATURE), 0)) == 0


@pytest.mark.parametrize(("attention", "ffn"), [((4, 0, 0), (0, 0, 0)), ((0, 0, 0), (0, 64, 0)), ((1, 3, 2), (50, 7, 33))])
def test_flops_are_the_share_of_multiply_accumulates(attention, ffn):
    costs = synthetic.flop_costs(SIGNATURE, TOKENS)
    widths = {block: (attention if block.kind == "attention" else ffn)[block.layer] for block in blocks_in(SIGNATURE)}
    assert costs.total(widths) == pytest.approx(macs(attention, ffn) / macs((4,) * 3, (64,) * 3))


def test_a_key_value_group_costs_its_query_heads():
    config = LlamaConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64,
        vocab_size=20, attn_implementation="eager",
    )  # fmt: skip
    model = LlamaModel(config).eval()
    blocks = blocks_of(model)
    macs = macs_of(model, blocks, {"input_ids": torch.ones(1, 8, dtype=torch.long)}, TOKENS)
    projected = 2 * 16 + 2 * 8  # query and output of two heads, key and value of one
    assert macs[blocks[0]] == pytest.approx(TOKENS * 32 * projected + 2 * TOKENS * TOKENS * 16)
    assert macs[blocks[1]] == pytest.approx(3 * TOKENS * 32)
    assert FlopCosts(macs).widths(blocks[0]) == [0, 1, 2]


def test_longer_texts_make_attention_dearer():
    shares = [synthetic.flop_costs(SIGNATURE, tokens).block(ATTENTION, 4) for tokens in (1, 10, 100, 1000)]
    assert shares == sorted(shares)
    assert shares[0] < shares[-1]


def test_flop_widths_are_every_head_and_filters_in_steps():
    narrow = synthetic.signature(layers=3, filters=40)
    costs, (attention, ffn) = synthetic.flop_costs(narrow, TOKENS), blocks_in(narrow)[:2]
    assert costs.widths(attention) == [0, 1, 2, 3, 4]
    assert costs.widths(ffn) == [0, 16, 32, 40]


def test_latency_costs_are_the_tables():
    points = (WorkloadPoint(batch=1, seq_len=16), WorkloadPoint(batch=8, seq_len=16, weight=3))
    table = synthetic.latency_table(SIGNATURE, points=points, fixed=2.0, head=0.25, filters=1.0, step=16)
    costs = LatencyCosts(table)
    assert costs.unit == "ms"
    assert costs.widths(ATTENTION) == [0, 1, 2, 3, 4]
    assert costs.widths(FFN) == [0, 16, 32, 48, 64]
    assert costs.block(FFN, 32) == pytest.approx(0.5)
    widths = {block: 1 if block.kind == "attention" else 16 for block in blocks_in(SIGNATURE)}
    assert costs.total(widths) == pytest.approx(2.0 + 3 * 0.25 + 3 * 0.25)
    assert costs.total(widths) == pytest.approx(table.predict_ms({block.key: width for block, width in widths.items()}))
