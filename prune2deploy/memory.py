"""What keeps the memory that pruning takes to little more than two models."""

import ctypes
import platform
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

LARGE = 2**21  # bytes; four times that saves MiniLM a seventh of reconstruction's time, and costs BERT-base half its size
M_MMAP_THRESHOLD = -3  # glibc's malloc.h


class Spilled(Sequence["torch.Tensor"]):
    """Tensors in files of a temporary folder (`TMPDIR` says where), which goes when this object does.

    What is taken out is a private view of its file: it takes memory only while it is in use, and changing it, or putting
    another tensor into its place, changes nothing for whoever has the other.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="prune2deploy-"))
        self.kinds: list[tuple[torch.dtype, torch.Size]] = []
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def __len__(self) -> int:
        return len(self.kinds)

    def __getitem__(self, index: Any) -> Any:
        import torch

        if not 0 <= index < len(self):
            raise IndexError(index)
        dtype, shape = self.kinds[index]
        return torch.from_file(str(self._file(index)), shared=False, size=shape.numel(), dtype=dtype).reshape(shape)

    def append(self, tensor: "torch.Tensor") -> None:
        """Add a tensor at the end."""
        self.kinds.append((tensor.dtype, tensor.shape))
        self[len(self) - 1] = tensor

    def __setitem__(self, index: int, tensor: "torch.Tensor") -> None:
        written = self.folder / "written"
        tensor.detach().cpu().numpy().tofile(written)
        self.kinds[index] = tensor.dtype, tensor.shape
        written.replace(self._file(index))  # a view of what was there keeps its file

    def _file(self, index: int) -> Path:
        return self.folder / str(index)


Store = Spilled | list["torch.Tensor"]


def store(device: "torch.device") -> Store:
    """Room for tensors of `device`, to be appended and replaced: files, where they would otherwise take main memory."""
    return Spilled() if device.type == "cpu" else []


def map_large_blocks() -> None:
    """Have the C library give each block of `LARGE` bytes or more a mapping of its own, as long as this process lives.

    Such a block goes back to the system when it is freed. By default glibc comes to keep freed blocks of up to 32 MB for
    later use, a gigabyte of them in the end; and keeping them is no faster. Other C libraries are left as they are.
    """
    if glibc := _glibc():
        glibc.mallopt(M_MMAP_THRESHOLD, LARGE)


def give_back() -> None:
    """Return the smaller blocks to the system, too, where many have been freed: they come to 200 MB for BERT-base."""
    if glibc := _glibc():
        glibc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
