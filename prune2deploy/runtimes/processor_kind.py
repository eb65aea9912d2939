"""What the processor calls itself, and which of the instructions it has that the speed of matrix products depends on."""

import platform
from collections.abc import Iterable
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# ARM processors have numbers in the place of a name: of who made them, and of the part.
MAKERS = {
    0x41: "ARM", 0x42: "Broadcom", 0x43: "Cavium", 0x46: "Fujitsu", 0x48: "HiSilicon", 0x4E: "NVIDIA", 0x51: "Qualcomm",
    0x61: "Apple", 0xC0: "Ampere",
}  # fmt: skip
PARTS = {
    (0x41, 0xD03): "Cortex-A53", (0x41, 0xD05): "Cortex-A55", (0x41, 0xD07): "Cortex-A57", (0x41, 0xD08): "Cortex-A72",
    (0x41, 0xD09): "Cortex-A73", (0x41, 0xD0A): "Cortex-A75", (0x41, 0xD0B): "Cortex-A76", (0x41, 0xD0C): "Neoverse-N1",
    (0x41, 0xD40): "Neoverse-V1", (0x41, 0xD41): "Cortex-A78", (0x41, 0xD42): "Cortex-A78AE", (0x41, 0xD44): "Cortex-X1",
    (0x41, 0xD49): "Neoverse-N2", (0x41, 0xD4A): "Neoverse-E1", (0x41, 0xD4F): "Neoverse-V2", (0x41, 0xD84): "Neoverse-V3",
    (0x41, 0xD8E): "Neoverse-N3", (0x46, 0x001): "A64FX", (0x4E, 0x004): "Carmel", (0xC0, 0xAC3): "AmpereOne",
}  # fmt: skip
INSTRUCTIONS = {  # as /proc/cpuinfo calls them, and as people do
    "avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "AVX-512 VNNI", "avx_vnni": "AVX VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "amx_tile": "AMX", "asimddp": "NEON dot product", "i8mm": "NEON int8 matrices", "bf16": "NEON BF16", "sve": "SVE",
    "sve2": "SVE2",
}  # fmt: skip


def cpu_name(cpuinfo: Path = CPUINFO) -> str:
    """The processor's own name for itself; of an ARM processor, its maker and part."""
    rows = _rows(cpuinfo)
    if name := next((value for key, value in rows if key == "model name"), None):
        return name
    makers = [int(value, 0) for key, value in rows if key == "CPU implementer"]
    parts = [int(value, 0) for key, value in rows if key == "CPU part"]
    names = [_arm_name(maker, part) for maker, part in zip(makers, parts, strict=False)]
    return " + ".join(dict.fromkeys(names)) or platform.processor() or platform.machine()


def instructions(cpuinfo: Path = CPUINFO) -> list[str]:
    """Those of `INSTRUCTIONS` that the processor has, by the names that people use."""
    said = next((value for key, value in _rows(cpuinfo) if key in ("flags", "Features")), "").split()
    return [name for flag, name in INSTRUCTIONS.items() if flag in said]


def saturates(found: Iterable[str]) -> bool:
    """Whether a processor with these instructions adds up products of 8-bit numbers in 16 bits: x86 without VNNI."""
    return any("AVX" in name for name in found) and not any("VNNI" in name for name in found)


def _arm_name(maker: int, part: int) -> str:
    return f"{MAKERS.get(maker, f'implementer {maker:#04x}')} {PARTS.get((maker, part), f'part {part:#05x}')}"


def _rows(cpuinfo: Path) -> list[tuple[str, str]]:
    """The lines of `cpuinfo` as keys and values; none on systems without it."""
    if not cpuinfo.is_file():
        return []
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    return [(key.strip(), value.strip()) for key, colon, value in (line.partition(":") for line in lines) if colon]
