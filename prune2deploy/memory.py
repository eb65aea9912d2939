"""What keeps the memory that pruning takes to little more than two models."""

import ctypes
import resource
import shutil
import sys
import tempfile
import weakref
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

SLACK = 192_000_000  # bytes; with a third of it, reconstruction of MiniLM takes a quarter longer


class Spilled(Sequence["torch.Tensor"]):
    """Tensors in files of a temporary folder (`TMPDIR` says where), which goes when this object does.

    What is taken out is a private view of its file: it takes memory only while it is in use, and changing it, or putting
    another tensor into its place, changes nothing for whoever has the other.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="prune2deploy-"))
        self.size = 0
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Any:
        import torch

        if not 0 <= index < self.size:
            raise IndexError(index)
        return torch.from_numpy(np.asarray(np.load(self._file(index), mmap_mode="c")))

    def append(self, tensor: "torch.Tensor") -> None:
        """Add a tensor at the end."""
        self.size += 1
        self[self.size - 1] = tensor

    def __setitem__(self, index: int, tensor: "torch.Tensor") -> None:
        written = self.folder / "written.npy"
        np.save(written, tensor.detach().cpu().numpy())
        written.replace(self._file(index))  # a view of what was there keeps its file

    def _file(self, index: int) -> Path:
        return self.folder / f"{index}.npy"


Store = Spilled | list["torch.Tensor"]


def store(device: "torch.device") -> Store:
    """Room for tensors of `device`, to be appended and replaced: files, where they would otherwise take main memory."""
    return Spilled() if device.type == "cpu" else []


def give_back() -> None:
    """Return to the system what was freed, where that may be much.

    The C library keeps freed blocks of up to 32 MB, a gigabyte of them in the end. Getting them anew takes time, so nothing
    is done until `SLACK` more are held than at the least since something was given back last.
    """
    trim = _trim()
    if trim is None:
        return
    held = resident()
    _Held.least = min(_Held.least, held)
    if held > _Held.least + SLACK:
        trim(0)
        _Held.least = resident()


class _Held:
    least = sys.maxsize  # bytes, since something was given back last


def resident() -> int:
    """Bytes of memory that this process holds; for Linux, where glibc is."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@cache
def _trim() -> Any:
    """What glibc has for it; None where the C library is another one."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
