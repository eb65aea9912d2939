"""ONNX files. A small graph holds its weights; those of a large one lie in a second file beside it.

Protobuf ends at 2 GiB, and a graph names the file of its weights, so none of these files is copied or moved by hand.
"""

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from prune2deploy.files import replacing, sha256_of, share

if TYPE_CHECKING:
    import onnx

LARGEST = 1_800_000_000  # bytes of weights that a graph holds itself
BESIDE = ".data"  # what the name of the second file ends in
SMALL = 1024  # bytes of a tensor that stays in the graph all the same: shape inference reads such


def data_of(onnx_file: Path) -> Path:
    """Where the weights of `onnx_file` are, unless it holds them itself."""
    return onnx_file.with_name(onnx_file.name + BESIDE)


def save_graph(model: "onnx.ModelProto", onnx_file: Path) -> None:
    """Write `model`, which is spoilt where it is large, and check it; raises onnx.checker.ValidationError.

    The file is complete or absent.
    """
    import onnx

    large = sum(len(entry.raw_data) for entry in model.graph.initializer) > LARGEST
    onnx_file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=onnx_file.parent, prefix=".graph-") as folder:
        made = Path(folder) / onnx_file.name
        onnx.save_model(
            model, made, save_as_external_data=large, location=data_of(onnx_file).name, size_threshold=SMALL,
        )  # fmt: skip
        onnx.checker.check_model(str(made), full_check=True)
        move_graph(made, onnx_file)


def move_graph(source: Path, target: Path) -> None:
    """Put the graph `source` in the place of `target`."""
    if data_of(source).exists() and source.name != target.name:  # the graph names the file of its weights
        copy_graph(source, target)
        remove_graph(source)
        return
    remove_graph(target)
    for old, new in ((data_of(source), data_of(target)), (source, target)):
        if old.exists():
            share(old)
            old.replace(new)


def copy_graph(source: Path, target: Path) -> None:
    """Copy the graph `source` to `target`, which then has its weights beside it, if they are not in it."""
    import onnx

    remove_graph(target)
    with replacing(target) as partial:
        if not data_of(source).exists():
            shutil.copyfile(source, partial)
            return
        with replacing(data_of(target)) as data:
            shutil.copyfile(data_of(source), data)
        graph = onnx.load(source, load_external_data=False)
        for entry in graph.graph.initializer:
            for said in entry.external_data:
                if said.key == "location":
                    said.value = data_of(target).name
        partial.write_bytes(graph.SerializeToString())


def remove_graph(onnx_file: Path) -> None:
    """Remove `onnx_file`, where it is, and its weights."""
    for path in (onnx_file, data_of(onnx_file)):
        path.unlink(missing_ok=True)


def bytes_of(onnx_file: Path) -> int:
    """The size of a graph with its weights."""
    return sum(path.stat().st_size for path in (onnx_file, data_of(onnx_file)) if path.exists())


def digest_of_graph(onnx_file: Path) -> str:
    """Hash of a graph with its weights."""
    parts = [sha256_of(path) for path in (onnx_file, data_of(onnx_file)) if path.exists()]
    return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()
