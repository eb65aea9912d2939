"""Half precision as casts in the ONNX graph, which is what strongly typed engines take it from.

Inputs and outputs keep their types, and so do the places where half precision is known to do harm: norms, softmax and
reductions, and whatever numbers beyond float16's range reach (an attention mask of -3.4e38, until the softmax takes it).
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.config import Precision
from prune2deploy.errors import CheckFailedError
from prune2deploy.graphs.files import save_graph
from prune2deploy.graphs.initializers import set_nodes_

if TYPE_CHECKING:
    import onnx

# computed in float32: sums over many elements, and functions that leave float16's range on ordinary values
FULL = {
    "BatchNormalization", "CumSum", "Exp", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "Log",
    "LogSoftmax", "Pow", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean",
    "ReduceProd", "ReduceSum", "ReduceSumSquare", "Softmax", "Sqrt",
}  # fmt: skip
AS_IT_COMES = {"Cast", "Shape", "Size"}  # take any type, and put out one of their own
NARROWS = {"Softmax", "Tanh", "Sigmoid", "Erf", "LayerNormalization"}  # put out ordinary values, whatever comes in
LARGEST = 65504.0  # float16


def cast(onnx_file: Path, precision: Precision, out: Path) -> None:
    """Write `onnx_file`, a float32 graph, to `out` as computed in `precision`; raises CheckFailedError.

    Works on what our own exports are made of; a graph with subgraphs (If, Loop) is refused.
    """
    import onnx

    model = onnx.load(onnx_file)
    if precision != "fp32":
        Casting(model, precision, _float_values(onnx_file)).run()
    try:
        save_graph(model, out)
    except onnx.checker.ValidationError as error:
        raise CheckFailedError(f"the {precision} graph is not valid ONNX: {str(error).splitlines()[0]}") from None


class Casting:
    """Rewrites the nodes of one graph in place, in their (topological) order."""

    def __init__(self, model: "onnx.ModelProto", precision: Precision, float_values: set[str]):
        import onnx

        self.graph = model.graph
        self.opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        self.half = onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.BFLOAT16
        self.full = onnx.TensorProto.FLOAT
        self.allowed = f"tensor({'float16' if precision == 'fp16' else 'bfloat16'})"
        self.float_values = float_values
        self.weights = {entry.name: entry for entry in self.graph.initializer}
        self.types: dict[str, int] = {}  # of every float value that has been put out so far
        self.wide: set[str] = set()  # values that may lie beyond float16's range
        self.made: dict[tuple[str, int], str] = {}  # (value, type) → its name in that type
        self.nodes: list[onnx.NodeProto] = []

    def run(self) -> None:
        """Cast; afterwards the graph computes in the precision wherever that is safe."""
        for value in self.graph.input:
            self.types[value.name] = self.full
        for name, entry in self.weights.items():
            self.types[name] = entry.data_type
            if entry.data_type == self.full and _beyond_range(entry):
                self.wide.add(name)
        outputs = {value.name for value in self.graph.output}
        for node in self.graph.node:
            self._place(node, outputs)
        set_nodes_(self.graph, self.nodes)
        del self.graph.value_info[:]

    def _place(self, node: "onnx.NodeProto", outputs: set[str]) -> None:
        """Add `node`, with the casts that it needs."""
        import onnx

        if any(attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for attribute in node.attribute):
            raise CheckFailedError(f"node {node.name or node.op_type} holds a graph of its own: only fp32 can be exported")
        taken = [name for name in node.input if name in self.float_values]
        put_out = [name for name in node.output if name in self.float_values]
        wide = any(name in self.wide for name in taken) or _holds_wide_constant(node)
        if wide and node.op_type not in NARROWS:
            self.wide.update(put_out)
        kind = self.half if self._goes_half(node, taken, put_out, wide) else self.full
        if node.op_type not in AS_IT_COMES:
            for index, name in enumerate(node.input):
                if name in self.float_values:
                    node.input[index] = self._in_type(name, kind)
        self.nodes.append(node)
        for index, name in enumerate(node.output):
            if name not in put_out:
                continue
            if kind == self.half and name in outputs:  # outputs keep their type
                node.output[index] = f"{name}_half"
                self.nodes.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], f"{name}_cast", to=self.full))
                self.made[name, self.half] = f"{name}_half"
                self.types[name] = self.full
            else:
                self.types[name] = kind

    def _goes_half(self, node: "onnx.NodeProto", taken: list[str], put_out: list[str], wide: bool) -> bool:
        import onnx

        if wide or not taken or not put_out or node.op_type in FULL | AS_IT_COMES or node.domain not in ("", "ai.onnx"):
            return False
        schema = onnx.defs.get_schema(node.op_type, self.opset)
        allowed = {entry.type_param_str: entry.allowed_type_strs for entry in schema.type_constraints}
        kinds = [_formal(schema.inputs, i).type_str for i, name in enumerate(node.input) if name in taken]
        kinds += [_formal(schema.outputs, i).type_str for i, name in enumerate(node.output) if name in put_out]
        return all(self.allowed in allowed.get(kind, ()) for kind in kinds)

    def _in_type(self, name: str, kind: int) -> str:
        """The name under which `name` is to be had in type `kind`: cast at its first use, weights once and for all."""
        import onnx

        if self.types[name] == kind:
            return name
        if (name, kind) not in self.made:
            self.made[name, kind] = f"{name}_{'full' if kind == self.full else 'half'}"
            if name in self.weights:
                array = onnx.numpy_helper.to_array(self.weights[name])
                half = array.astype(onnx.helper.tensor_dtype_to_np_dtype(kind))
                self.graph.initializer.append(onnx.numpy_helper.from_array(half, self.made[name, kind]))
            else:
                made = self.made[name, kind]
                self.nodes.append(onnx.helper.make_node("Cast", [name], [made], f"{made}_cast", to=kind))
        return self.made[name, kind]


def _float_values(onnx_file: Path) -> set[str]:
    """The names of all float32 values of a graph: inputs, weights, and what nodes put out."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        inferred = Path(folder) / "inferred.onnx"
        onnx.shape_inference.infer_shapes_path(str(onnx_file), str(inferred), strict_mode=True)
        graph = onnx.load(inferred, load_external_data=False).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    found = {value.name for value in values if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    return found | {entry.name for entry in graph.initializer if entry.data_type == onnx.TensorProto.FLOAT}


def _beyond_range(tensor: "onnx.TensorProto") -> bool:
    import onnx

    return bool(np.abs(onnx.numpy_helper.to_array(tensor)).max(initial=0.0) > LARGEST)


def _holds_wide_constant(node: "onnx.NodeProto") -> bool:
    """Whether a tensor attribute (of Constant, ConstantOfShape) lies beyond float16's range."""
    import onnx

    tensors = [attribute.t for attribute in node.attribute if attribute.type == onnx.AttributeProto.TENSOR]
    return any(tensor.data_type == onnx.TensorProto.FLOAT and _beyond_range(tensor) for tensor in tensors)


def _formal(formals: list, index: int) -> "onnx.defs.OpSchema.FormalParameter":
    """The declared parameter at `index`; the last one stands for all that follow where it is variadic."""
    return formals[min(index, len(formals) - 1)]
