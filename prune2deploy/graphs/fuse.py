"""A fused graph for ONNX Runtime: a candidate, taken only where it is measured faster and equal."""

import contextlib
import io
import logging
from pathlib import Path

from prune2deploy.graphs.files import data_of, save_graph
from prune2deploy.provenance import EXPORTED, ONNX_RUNTIMES, cache_key, remove_stale

GAIN = 0.03  # of the latency; less is within what a second measurement may undo


def fuse(onnx_file: Path, fused_file: Path) -> bool:
    """Write `onnx_file`, with what ONNX Runtime's transformer optimizer fuses, to `fused_file`; False if nothing is.

    Head counts are given as 0, so that no attention is fused: told the configuration's counts, the optimizer
    silently corrupts a model with pruned heads (docs/measuring.md).
    """
    import onnx
    from onnxruntime.transformers import optimizer

    logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
    if data_of(onnx_file).exists():  # the optimizer does not take weights that lie beside the graph
        return False
    plain = onnx.load(onnx_file, load_external_data=False).graph
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # which is for answers, and the optimizer talks
            model = optimizer.optimize_model(str(onnx_file), num_heads=0, hidden_size=0, opt_level=0).model
    except Exception:  # it fails on graphs that it was not made for, such as norms without bias: then nothing is fused
        return False
    if {node.op_type for node in model.graph.node} <= {node.op_type for node in plain.node}:
        return False
    del model.graph.input[:]  # the optimizer drops what no node reads, such as the mask of a model without attention
    model.graph.input.extend(plain.input)
    declared = {opset.domain for opset in model.opset_import}
    for domain in sorted({node.domain for node in model.graph.node} - declared):
        model.opset_import.append(onnx.helper.make_opsetid(domain, 1))  # the optimizer forgets its own
    try:
        save_graph(model, fused_file)
    except onnx.checker.ValidationError:  # RMS norms become an operator that only ONNX Runtime takes for one of ONNX's
        return False
    return True


def fused_dense(dense_file: Path) -> Path:
    """`dense_file` fused, beside it, and made again after an upgrade of what makes it; itself where nothing is fused."""
    name = f"{dense_file.stem}.fused"
    path = dense_file.with_name(f"{name}.{cache_key((*EXPORTED, *ONNX_RUNTIMES), name)}.onnx")
    if not path.exists():
        done = fuse(dense_file, path)
        remove_stale(path.parent, f"{name}.*", path)
        return path if done else dense_file
    return path
