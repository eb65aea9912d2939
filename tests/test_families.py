"""Every family that there is a file of goes the whole way, on a tiny random model of its own structure.

A family without its tiny model in `structures.py` fails here. `docs/families.md` is what these tests have seen: where it
differs, run them with PRUNE2DEPLOY_WRITE_DOCS=1, and commit it.
"""

import copy
import os
import random
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import structures
import tiny
import torch
from steady import answer, cli, install

from prune2deploy.graphs.onnx_model import export_onnx
from prune2deploy.models.capture import visits_of
from prune2deploy.models.checkpoint import drop_pooler_, load, save_pruned
from prune2deploy.models.family import blocks_of, families
from prune2deploy.models.logit_scale import scale_logits_
from prune2deploy.models.plan import Plan
from prune2deploy.models.projection import as_rows, output_projection, rows_in, rows_out
from prune2deploy.models.signature import signature_of
from prune2deploy.models.surgery import mask_, running_shrunk, shrunk
from prune2deploy.profiling.stacks import Stacks
from prune2deploy.profiling.sweep import Sweep
from prune2deploy.progress import Progress
from prune2deploy.pruning.statistics.calibrate import Calibration
from prune2deploy.pruning.statistics.moments import moments_of
from prune2deploy.pruning.statistics.streams import Streams

DOCS = Path(__file__).parent.parent / "docs" / "families.md"
CLOSE = 1e-5
# of the structures that no other test takes the whole way: windows and stages, convolutions
WHOLE_WAY = {"swin", "resnet"}
# layers and head of another one, so that their graph is the same
SAME_GRAPH = {
    "xlm-roberta", "camembert", "siglip", "deit", "dinov2_with_registers", "electra", "clip_vision_model",
    "siglip_vision_model", "siglip_text_model",
}  # fmt: skip


def rng_kept(block, number, rng, share):
    if share == "nothing" or (share == "vanished" and number % 3 == 0):
        return []
    return rng.sample(range(block.units), rng.randint(1, block.units - 1))


def plan_of(model, share):
    """Units at random, another number in every block; "vanished": none in every third block."""
    rng = random.Random(3)
    kept = {block: rng_kept(block, number, rng, share) for number, block in enumerate(blocks_of(model))}
    return Plan.of(signature_of(model.config), kept)


@pytest.fixture(scope="module", params=sorted(structures.CONFIGURATIONS))
def family(request):
    return request.param


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    """A model and data of its kind."""
    return structures.save_with_data(family, tmp_path_factory.mktemp(family))


@pytest.fixture(scope="module")
def case(family, folder, tmp_path_factory):
    return structures.loaded(family, folder, tmp_path_factory.mktemp("project"))


def logits(model, task, samples, size=5):
    """All that the task reads of the model."""
    with torch.no_grad():
        said = [task.said(model, batch.tensors()) for _, batch in samples.batches(size)]
    return torch.cat([each for outputs in said for each in outputs.values()])


def assert_same(got, wanted):
    """Up to float32's rounding, of the largest logit."""
    torch.testing.assert_close(got, wanted, rtol=CLOSE, atol=CLOSE * max(1.0, float(wanted.abs().max())))


def test_every_family_has_a_tiny_model():
    assert set(structures.CONFIGURATIONS) == set(families())


@pytest.mark.parametrize("share", ["uneven", "vanished", "nothing"])
def test_masked_and_shrunk_say_the_same(case, share):
    model, task = case
    samples, plan = task.evaluation(), plan_of(model, share)
    masked = copy.deepcopy(model)
    mask_(masked, plan)
    wanted, dense = logits(masked, task, samples), logits(model, task, samples)
    slim = shrunk(model, plan)
    assert_same(logits(slim, task, samples), wanted)
    with running_shrunk(masked, plan):
        assert_same(logits(masked, task, samples), wanted)
    assert (wanted - dense).abs().max() > 1e-2  # what was dropped mattered
    assert torch.equal(logits(model, task, samples), dense)  # the dense model is as it was
    few, all_of = (sum(tensor.numel() for tensor in each.parameters()) for each in (slim, model))
    assert few < all_of


OTHER_HEADS = [(family, head) for family in sorted(families()) for head in list(families()[family].heads)[1:]]


def said(model, inputs):
    """All that the head says, or an encoder without one."""
    with torch.no_grad():
        returned = model(**inputs)
    names = [name for name in ("logits", "start_logits", "end_logits") if name in returned] or ["last_hidden_state"]
    return torch.cat([returned[name].flatten(1) for name in names], dim=1)


@pytest.mark.parametrize(("family", "head"), OTHER_HEADS)
@pytest.mark.parametrize("share", ["uneven", "vanished"])
def test_other_heads_shrink_scale_and_come_back(family, head, share, tmp_path):
    model = structures.model_of(family, head)
    drop_pooler_(model, has_weights=True)
    size = model.config.image_size if structures.of_images(family) else 0
    pixels = structures.IMAGE if families()[family].any_size or size == structures.IMAGE else 16
    inputs = {"pixel_values": torch.linspace(-1, 1, 6 * pixels**2).reshape(2, 3, pixels, pixels)} if size else {
        "input_ids": torch.arange(2, 18).reshape((2, 2, 4) if head.endswith("ForMultipleChoice") else (2, 8))
    }  # fmt: skip
    plan = plan_of(model, share)
    masked = copy.deepcopy(model)
    mask_(masked, plan)
    wanted = said(masked, inputs)
    slim = shrunk(model, plan)
    assert_same(said(slim, inputs), wanted)
    if families()[family].heads[head]:
        scale_logits_(slim, 0.5)
        wanted = 0.5 * wanted
        assert_same(said(slim, inputs), wanted)
    structures.save_processor_of(model, tmp_path)
    (tmp_path / "pruned").mkdir()
    save_pruned(slim, plan, tiny.provenance(), tmp_path, tmp_path / "pruned")
    assert_same(said(load(tmp_path / "pruned"), inputs), wanted)


@pytest.mark.parametrize("share", ["uneven", "vanished"])
def test_a_saved_model_comes_back_bit_by_bit(case, share, folder, tmp_path):
    model, task = case
    slim, samples = shrunk(model, plan_of(model, share)), task.evaluation()
    save_pruned(slim, plan_of(model, share), tiny.provenance(), folder / "model", tmp_path)
    found = load(tmp_path)
    for name, tensor in slim.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)
    # where a tensor lies in memory decides how it is multiplied
    assert_same(logits(found, task, samples), logits(slim, task, samples))


@pytest.mark.slow
def test_the_graph_says_what_pytorch_says(family, case, tmp_path):
    if family in SAME_GRAPH:
        pytest.skip("its graph is that of another family")
    model, task = case
    slim = shrunk(model, plan_of(model, "vanished"))  # blocks gone, and all others uneven
    export_onnx(slim, task, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    samples = task.evaluation()
    for indices in ([0], [1, 2, 3], list(range(16))):  # alone, and padded beside others
        batch = samples.batch(indices)
        with torch.no_grad():
            [wanted] = (output.numpy() for output in task.said(slim, batch.tensors()).values())
        given = {entry.name: batch.inputs[entry.name] for entry in session.get_inputs()}
        np.testing.assert_allclose(session.run(None, given)[0], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(case, side):
    model, task = case
    if "sequence" not in task.axis_limits():
        pytest.skip("images are not padded, and some models' texts always")
    slim, samples = shrunk(model, plan_of(model, "uneven")), task.evaluation()
    shortest, longer = samples.order()[0], samples.lengths[samples.order()[0]] + 5
    alone = samples.batch([shortest])
    padded = {
        name: np.pad(array, ((0, 0), (5, 0) if side == "left" else (0, 5)), constant_values=samples.padding[name])
        for name, array in alone.inputs.items()
    }
    if side == "left" and model.config.model_type != "llama":
        pytest.skip("positions are counted from the left")
    places = np.maximum(np.cumsum(padded["attention_mask"], axis=1) - 1, 0)
    more = {"position_ids": torch.from_numpy(places)} if side == "left" else {}
    with torch.no_grad():
        got = task.said(slim, {name: torch.from_numpy(array) for name, array in padded.items()} | more)
        wanted = task.said(slim, alone.tensors())
    assert padded["attention_mask"].shape[1] == longer
    for name, output in wanted.items():
        assert_same(got[name], output)


def rows_of(model, samples, index):
    """Of one sample alone: per block and call (entry or None, input, output), float64 rows."""
    seen = {}
    handles = []
    for block in blocks_of(model):
        layer = model.get_submodule(block.root)

        def entering(module, args, kwargs, block=block):
            seen.setdefault((block, "entry"), []).append(as_rows(args[0] if args else kwargs["hidden_states"], 1)[0])

        def projected(module, args, output, block=block):
            seen.setdefault((block, "input"), []).append(rows_in(module, args[0], 1)[0])
            seen.setdefault((block, "output"), []).append(rows_out(module, output, 1)[0])

        if block.entry:
            handles.append(layer.get_submodule(block.entry).register_forward_pre_hook(entering, with_kwargs=True))
        handles.append(layer.get_submodule(block.output).register_forward_hook(projected))
    with torch.no_grad():
        model(**samples.batch([index]).tensors())
    for handle in handles:
        handle.remove()
    return seen


def test_a_walk_sees_what_whole_runs_see(case):
    """Where layers come again, the walk is along the dense model, so that only what is pruned within a layer shows."""
    model, task = case
    samples, plan = task.evaluation().select(list(range(6))), plan_of(model, "vanished")
    pruned = copy.deepcopy(model)
    again = any(block.calls > 1 for block in blocks_of(model))
    if not again:
        mask_(pruned, plan)
    streams = Streams(model, pruned, samples)
    runs = [(rows_of(model, samples, index), rows_of(pruned, samples, index)) for index in range(len(samples))]
    for block in streams.blocks():
        found = streams.statistics(block, list(range(block.units)))
        inputs, targets = [], []
        for dense, slim in runs:
            for call, given in enumerate(slim[block, "input"]):
                inputs.append(given)
                target = dense[block, "output"][call]
                if block.entry:
                    target = target + dense[block, "entry"][call] - slim[block, "entry"][call]
                targets.append(target)
        x, y = torch.cat(inputs).double(), torch.cat(targets).double()
        assert found.n == len(x)
        for got, wanted in ((found.xx, x.T @ x), (found.xy, x.T @ y), (found.x_sum, x.sum(0)), (found.y_sum, y.sum(0))):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_moments_are_those_of_whole_runs(case):
    model, task = case
    samples = task.evaluation().select(list(range(6)))
    moments = moments_of(Calibration(model, task, samples, 0, Progress()))
    runs = [rows_of(model, samples, index) for index in range(len(samples))]
    for block in blocks_of(model):
        x = torch.cat([rows for run in runs for rows in run[block, "input"]]).double().numpy()
        found = moments.blocks[block]
        np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-4, atol=1e-5)
        wanted = np.cov(x.T, bias=True)
        np.testing.assert_allclose(found.covariance, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())
        for weights, run in zip(moments.weights[block], runs, strict=True):
            assert weights.shape == (block.calls, len(run[block, "input"][0]))


def test_layers_run_as_often_as_blocks_say(case):
    model, task = case
    roots = [visit.root for visit in visits_of(model, task.evaluation().batch([0]).tensors())]
    for block in blocks_of(model):
        assert roots.count(block.root) == block.calls


def test_a_block_without_units_still_has_its_bias(case):
    model, _ = case
    slim = shrunk(model, plan_of(model, "nothing"))
    for block in blocks_of(model):
        bias = output_projection(model, block).bias
        if bias is not None:
            assert any(torch.equal(bias, other) for other in slim.get_submodule(block.root).parameters())


@pytest.mark.slow
def test_the_whole_way(family, folder, tmp_path, monkeypatch):
    if family not in WHOLE_WAY:
        pytest.skip("its layers are of a structure that goes the whole way in another family")
    clock = install(monkeypatch)
    few = lambda sweep, point: sorted({0, sweep.units // 2, sweep.units})  # noqa: E731 (every width is an export)
    monkeypatch.setattr(Sweep, "_grid", few)
    monkeypatch.chdir(tmp_path)
    points = ["--batch", 2, *(["--seq-len", 8] if structures.is_text(family) else [])]
    model, data = folder / "model", folder / "data"
    answer(cli("init", model, "--data", data, *points, "--threads", 1, "--samples", 16, "--force", "--json"))
    answer(cli("profile", "--json"))
    said = answer(cli("run", "--speedup", 1.4, "--json"))
    assert (said["verdict"], said["speedup"] >= 1.4) == ("passed", True)
    assert answer(cli("validate", said["path"], "--json"))["passed"]
    assert all(description.startswith("timing padding") for description in clock.padded)


def test_a_stack_counts_every_block_of_its_curve(family, case, tmp_path):
    """What a table says is of one run of one block, and a layer may have several of a curve."""
    model, task = case
    if family != "mobilebert":
        pytest.skip("a layer of it has one block of a curve")
    assert Stacks(model, task, "ffn", tmp_path).runs == 4 * 3
    assert Stacks(model, task, "attention", tmp_path).runs == 4


def row(family):
    """What `docs/families.md` says of a family."""
    dense = structures.model_of(family)
    signature = signature_of(dense.config)
    blocks = blocks_of(dense)
    kinds = ", ".join(f"{kind} ({units_of(blocks, kind)})" for kind in signature.kinds)
    heads = ", ".join(f"`{name}`" for name in families()[family].heads)
    traits = [
        "layers differ" if len(signature.curves) > len(signature.kinds) else "",
        "a layer runs more than once" if signature.calls else "",
        "fused projections" if any(len(cut.per_unit) > 1 for block in blocks for cut in block.cuts) else "",
        "feeds a bottleneck" if any(not block.entry for block in blocks) else "",
        "convolutions" if any("channels" in block.kind for block in blocks) else "",
    ]
    structure = "; ".join(filter(None, traits)) or "equal layers"
    return f"| `{family}` | {heads} | {kinds} | {len(signature.curves)} | {structure} |"


def units_of(blocks, kind):
    """What of a tiny model's layer is cut, in words of its paths."""
    block = next(block for block in blocks if block.kind == kind)
    return f"`{'`, `'.join(cut.path for cut in block.cuts)}` → `{block.output}`"


def test_the_table_in_the_docs_is_what_these_tests_ran_on():
    lines = ["| family | classes | blocks: what is cut → output projection | curves of the tiny model | structure |",
             "|---|---|---|---|---|", *(row(family) for family in sorted(families()))]  # fmt: skip
    text = DOCS.read_text(encoding="utf-8")
    start, end = "<!-- families -->\n", "<!-- end of families -->\n"
    before, _, rest = text.partition(start)
    told, _, after = rest.partition(end)
    wanted = "\n".join(lines) + "\n"
    if os.environ.get("PRUNE2DEPLOY_WRITE_DOCS"):
        DOCS.write_text(before + start + wanted + end + after, encoding="utf-8")
        told = wanted
    assert told == wanted
