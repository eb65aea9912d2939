import platform

import pytest

from prune2deploy.runtimes.base import DeviceInfo
from prune2deploy.runtimes.processor_kind import cpu_name, instructions

X86 = """processor\t: 0
model name\t: AMD EPYC 7763 64-Core Processor
flags\t\t: fpu vme sse2 avx avx2 avx512f avx512_vnni
processor\t: 1
model name\t: AMD EPYC 7763 64-Core Processor
flags\t\t: fpu vme sse2 avx avx2 avx512f avx512_vnni
"""
GRAVITON = "processor\t: 0\nFeatures\t: fp asimd asimddp sve i8mm bf16\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n"
BIG_LITTLE = "\n".join(f"CPU implementer\t: 0x41\nCPU part\t: {part}" for part in ("0xd03", "0xd03", "0xd08"))
STRANGER = "CPU implementer\t: 0x7f\nCPU part\t: 0x12\n"
CASES = {
    "x86": (X86, "AMD EPYC 7763 64-Core Processor", ["AVX2", "AVX-512", "AVX-512 VNNI"]),
    "ARM server": (GRAVITON, "ARM Neoverse-V1", ["NEON dot product", "NEON int8 matrices", "NEON BF16", "SVE"]),
    "two kinds of core": (BIG_LITTLE, "ARM Cortex-A53 + ARM Cortex-A72", []),
    "unknown maker": (STRANGER, "implementer 0x7f part 0x012", []),
}


@pytest.mark.parametrize("which", CASES)
def test_name_and_instructions(which, tmp_path):
    text, name, has = CASES[which]
    (tmp_path / "cpuinfo").write_text(text, encoding="utf-8")
    assert cpu_name(tmp_path / "cpuinfo") == name
    assert instructions(tmp_path / "cpuinfo") == has


def test_system_without_cpuinfo(tmp_path):
    assert cpu_name(tmp_path / "nowhere") == (platform.processor() or platform.machine())
    assert instructions(tmp_path / "nowhere") == []


def device(**changes):
    return DeviceInfo(**{"kind": "cpu", "name": "AMD EPYC", "cores": 2, "memory_gb": 24.0, **changes})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, None), ({"memory_gb": 8.0}, None), ({"instructions": []}, None),
        ({"cores": 4}, "this is AMD EPYC (4 cores)"), ({"name": "Xeon"}, "this is Xeon (2 cores)"),
        ({"instructions": ["AVX2"]}, "AMD EPYC with AVX2, AVX-512, and this one has AVX2"),
    ],
)  # fmt: skip
def test_another_machine_is_told_in_what_it_differs(changes, told):
    found = device(instructions=["AVX2", "AVX-512"]).differs(device(**{"instructions": ["AVX2", "AVX-512"], **changes}))
    assert found is None if told is None else told in found
