"""Graphs that the tests export, kept for all processes of a run: exports are most of what these tests take.

`made` keeps its projects in the same folder.
"""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from prune2deploy.files import replacing
from prune2deploy.graphs import onnx_model
from prune2deploy.profiling import stacks

FOLDER = "PRUNE2DEPLOY_TESTS_EXPORTS"  # the environment variable that names where they are kept


def share(patch):
    """The same module is exported once a run."""
    for importer in (onnx_model, stacks):
        patch.setattr(importer, "to_onnx", exported_once(importer.to_onnx))


def exported_once(to_onnx):
    def export(module, inputs, axes, limits, outputs, path):
        kept = Path(os.environ[FOLDER]) / digest(module, inputs, axes, limits, outputs)
        if kept.exists():
            with replacing(path) as partial:
                shutil.copyfile(kept, partial)
            return
        to_onnx(module, inputs, axes, limits, outputs, path)
        with tempfile.NamedTemporaryFile(dir=kept.parent, delete=False) as copy:  # another process may be at the same one
            copy.write(path.read_bytes())
        Path(copy.name).replace(kept)

    return export


def digest(module, inputs, axes, limits, outputs):
    """Of all that a graph depends on."""
    shapes = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in inputs.items()}
    settings = [
        (name, key, value)
        for name, each in module.named_modules()
        for key, value in sorted(vars(each).items())
        if isinstance(value, bool | int | float | str)
    ]
    found = hashlib.sha256(repr((str(module), settings, shapes, axes, limits, outputs)).encode())
    for name, tensor in module.state_dict().items():
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + tensor.numpy().tobytes())
    return found.hexdigest()
