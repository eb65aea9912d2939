"""Lower precision as nodes of the ONNX graph: the products of chosen linear layers, and nothing else of the graph.

`int8` is QuantizeLinear and DequantizeLinear around a product, which ONNX Runtime, OpenVINO and TensorRT make a product of
whole numbers; `int8-dynamic` is DynamicQuantizeLinear and MatMulInteger; weights alone are ONNX Runtime's MatMulNBits.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.errors import CheckFailedError
from prune2deploy.graphs.files import save_graph
from prune2deploy.graphs.initializers import Place, places_of, set_nodes_
from prune2deploy.precisions import Rounding, grouped, level_factors

if TYPE_CHECKING:
    import onnx
    from torch import nn

PRODUCTS = ("MatMul", "Gemm")
OWN_DOMAIN = "com.microsoft"


def quantise(onnx_file: Path, module: "nn.Module", roundings: Mapping[str, Rounding], out: Path) -> None:
    """Write `onnx_file`, which was exported from `module`, to `out` with some of its products in lower precision.

    Args:
        onnx_file: in float32.
        module: whose weights the graph holds.
        roundings: by the path of the linear layer in `module`; the others stay as they are.
        out: the file to write; it is complete or absent.

    Raises:
        CheckFailedError: a layer's product is not found in the graph, or what comes out is not valid ONNX.
    """
    import onnx

    model = onnx.load(onnx_file)
    places = places_of(model.graph, module)
    chosen: dict[str, tuple[Place, Rounding]] = {}  # by the initializer
    for path, rounding in roundings.items():
        place = places.get(f"{path}.weight")
        if place is None:
            raise CheckFailedError(f"the weight of {path} was not found in the graph")
        chosen[place.initializer] = (place, rounding)
    done = Quantising(model, chosen).run()
    if missing := [path for path in roundings if places[f"{path}.weight"].initializer not in done]:
        raise CheckFailedError(f"no product of {missing[0]} was found in the graph")
    try:
        save_graph(model, out)
    except onnx.checker.ValidationError as error:
        raise CheckFailedError(f"the graph in lower precision is not valid ONNX: {str(error).splitlines()[0]}") from None


class Quantising:
    """Rewrites the products of one graph in place. `chosen`: by the initializer, where it is and how it is rounded."""

    def __init__(self, model: "onnx.ModelProto", chosen: Mapping[str, tuple[Place, Rounding]]):
        from onnx import numpy_helper

        self.model, self.graph, self.chosen = model, model.graph, chosen
        self.weights = {
            entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer if entry.name in chosen
        }
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: dict[tuple, tuple[str, ...]] = {}  # what was made of an input already: several layers read one
        self.known: set[str] = set()  # initializers that were added

    def run(self) -> set[str]:
        """Rewrite; returns the initializers whose products were found."""
        done: set[str] = set()
        for node in self.graph.node:
            name = node.input[1] if node.op_type in PRODUCTS and len(node.input) > 1 else ""
            if name not in self.chosen:
                self.nodes.append(node)
                continue
            self._place(node, name)
            done.add(name)
        set_nodes_(self.graph, self.nodes)
        return done

    def _place(self, node: "onnx.NodeProto", name: str) -> None:
        """Add what takes the place of a product."""
        place, rounding = self.chosen[name]
        stored = self.weights[name]
        # a row for each output, which a product has as a column, and a Gemm as its attribute says
        by_row = _attribute(node, "transB", 0) == 1
        weight = stored if by_row else stored.T
        if place.transposed == by_row:
            raise CheckFailedError(f"{node.name}: its weight lies otherwise than a linear layer's")
        result = node.output[0] if len(node.input) < 3 or not node.input[2] else f"{node.output[0]}_product"
        make = {"dynamic": self._dynamic, "static": self._static, "exact": self._stored}[rounding.format.inputs]
        make = self._levels if rounding.format.pieces == 2 else make
        make(node, name, weight, rounding, result)
        if result != node.output[0]:
            self._node("Add", [result, node.input[2]], node.output[0])

    def _dynamic(self, node: "onnx.NodeProto", name: str, weight: np.ndarray, rounding: Rounding, result: str) -> None:
        codes, scale = self._codes(name, weight, rounding)
        taken = node.input[0]
        key = (taken, "dynamic")
        if key not in self.inputs:
            self.inputs[key] = tuple(f"{taken}_dynamic_{part}" for part in ("whole", "scale", "zero"))
            self._node("DynamicQuantizeLinear", [taken], *self.inputs[key])
        whole, input_scale, zero = self.inputs[key]
        self._node("MatMulInteger", [whole, codes, zero], f"{result}_integers", name=node.name)
        self._node("Cast", [f"{result}_integers"], f"{result}_unscaled", to=1)
        self._node("Mul", [input_scale, scale], f"{result}_of_both")
        self._node("Mul", [f"{result}_unscaled", f"{result}_of_both"], result)

    def _static(self, node: "onnx.NodeProto", name: str, weight: np.ndarray, rounding: Rounding, result: str) -> None:
        codes, scale = self._codes(name, weight, rounding)
        self._node("DequantizeLinear", [codes, scale], f"{name}_rounded", axis=1)
        taken, grid = node.input[0], rounding.input_grid()
        key = (taken, *grid)
        if key not in self.inputs:
            mark = f"{taken}_static{len(self.inputs)}"
            step, zero = self._add(f"{mark}_step", np.asarray(grid[0])), self._add(f"{mark}_zero", np.uint8(grid[1]))
            self._node("QuantizeLinear", [taken, step, zero], f"{mark}_whole")
            self._node("DequantizeLinear", [f"{mark}_whole", step, zero], f"{mark}_rounded")
            self.inputs[key] = (f"{mark}_rounded",)
        self._node("MatMul", [*self.inputs[key], f"{name}_rounded"], result, name=node.name)

    def _stored(self, node: "onnx.NodeProto", name: str, weight: np.ndarray, rounding: Rounding, result: str) -> None:
        """Weights of few bits, each group of them behind another, and what they are multiplied by."""
        form = rounding.format
        middle = 1 << (form.bits - 1)  # whole numbers are stored without a sign
        codes = (grouped(rounding.codes(weight), form.group).astype(np.int16) + middle).astype(np.uint8)
        if form.bits == 4:
            codes = (codes[..., 0::2] | (codes[..., 1::2] << 4)).astype(np.uint8)
        stored, scale = self._add(f"{name}_codes", codes), self._add(f"{name}_scale", rounding.scale)
        if OWN_DOMAIN not in {opset.domain for opset in self.model.opset_import}:
            self.model.opset_import.add(domain=OWN_DOMAIN, version=1)
        self._node(
            "MatMulNBits", [node.input[0], stored, scale], result, name=node.name, domain=OWN_DOMAIN, N=len(weight),
            K=weight.shape[1], bits=form.bits, block_size=form.group,
        )  # fmt: skip

    def _levels(self, node: "onnx.NodeProto", name: str, weight: np.ndarray, rounding: Rounding, result: str) -> None:
        """Numbers of levels, two in a byte, and what they are looked up in: a runtime makes a float32 weight of it at load.

        Level l of a row is a · below[l] + b · above[l], with a and b where its two pieces end.
        """
        codes = np.pad(rounding.codes(weight).astype(np.uint8), ((0, 0), (0, weight.shape[1] % 2)))
        stored = self._add(f"{name}_codes", codes[:, 0::2] | (codes[:, 1::2] << 4))
        ends = [self._add(f"{name}_end{index}", rounding.scale[:, [index]]) for index in range(2)]
        factors = [
            self._add(f"levels_{index}", np.concatenate([each, -each]).astype(np.float32)[None])
            for index, each in enumerate(level_factors())
        ]
        low, four = (self._add(f"levels_{each}", np.uint8(each)) for each in (15, 4))
        for index in range(2):
            self._node("Mul", [ends[index], factors[index]], f"{name}_part{index}")
        self._node("Add", [f"{name}_part0", f"{name}_part1"], f"{name}_levels")
        self._node("BitwiseAnd", [stored, low], f"{name}_even")
        self._node("BitShift", [stored, four], f"{name}_odd", direction="RIGHT")
        axis = self._add("levels_axis", np.array([2], dtype=np.int64))
        for part in ("even", "odd"):
            self._node("Unsqueeze", [f"{name}_{part}", axis], f"{name}_{part}_alone")
        self._node("Concat", [f"{name}_even_alone", f"{name}_odd_alone"], f"{name}_pairs", axis=2)
        shape = self._add(f"{name}_shape", np.array([len(weight), codes.shape[1]], dtype=np.int64))
        self._node("Reshape", [f"{name}_pairs", shape], f"{name}_places")
        self._node("Cast", [f"{name}_places"], f"{name}_indices", to=7)
        self._node("GatherElements", [f"{name}_levels", f"{name}_indices"], f"{name}_padded", axis=1)
        start, stop, along = (
            self._add(f"{name}_{part}", np.array([value], dtype=np.int64))
            for part, value in (("start", 0), ("stop", weight.shape[1]), ("along", 1))
        )
        self._node("Slice", [f"{name}_padded", start, stop, along], f"{name}_rows")
        self._node("Transpose", [f"{name}_rows"], f"{name}_rounded", perm=[1, 0])
        self._node("MatMul", [node.input[0], f"{name}_rounded"], result, name=node.name)

    def _codes(self, name: str, weight: np.ndarray, rounding: Rounding) -> tuple[str, str]:
        """The initializers of the whole numbers, [inputs, outputs], and of the scale of each output."""
        codes = self._add(f"{name}_codes", np.ascontiguousarray(rounding.codes(weight).T))
        return codes, self._add(f"{name}_scale", rounding.scale[:, 0])

    def _add(self, name: str, array: np.ndarray) -> str:
        from onnx import numpy_helper

        if name not in self.known:  # a layer that runs several times has one weight
            self.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
            self.known.add(name)
        return name

    def _node(self, kind: str, inputs: list[str], *outputs: str, name: str | None = None, **attributes: object) -> None:
        import onnx

        made = onnx.helper.make_node(kind, inputs, list(outputs), name or f"{outputs[0]}_node", **attributes)
        self.nodes.append(made)


def _attribute(node: "onnx.NodeProto", name: str, default: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)
