import pytest

from prune2deploy.errors import InputError
from prune2deploy.exporting.releases import RELEASES, numbers, release_named, server_check
from prune2deploy.runtimes.base import RuntimeInfo


def made_by(name, version):
    return RuntimeInfo(name=name, version=version, provider="p", threads=1, affinity=[0], settings={})


def test_a_release_that_is_not_known_is_refused():
    with pytest.raises(InputError, match=r"Triton 19\.01 is not in our table, which has 25\.01 to 26\.08"):
        release_named("19.01")


def test_every_release_reads_our_onnx_files():
    for name in RELEASES:
        check = server_check(name, made_by("onnxruntime", "1.31.1"), False)
        assert check.passed
        assert RELEASES[name].onnxruntime in check.detail


@pytest.mark.parametrize(
    ("built", "compatible", "passed"),
    [
        ("10.14.1.48", False, True), ("10.14.1.2", False, True), ("10.13.3.9", False, False), ("11.4.0.106", False, False),
        ("10.13.3.9", True, True), ("10.16.1.11", True, False), ("9.3.0", True, False), ("11.0.0", True, False),
    ],
)  # fmt: skip
def test_a_plan_loads_where_its_own_tensorrt_is_or_a_compatible_one(built, compatible, passed):
    check = server_check("26.07", made_by("tensorrt", built), compatible)
    assert check.passed == passed
    assert built in check.detail
    assert "10.14.1.48" in check.detail


def test_what_the_source_does_not_say_is_not_promised():
    assert not server_check("26.08", made_by("tensorrt", "11.4.0"), False).passed


def test_versions_compare_as_numbers():
    assert numbers("10.14.1.48") > numbers("10.9.0.34")
    assert numbers("1.23.0+1d1712fdaf") == (1, 23, 0)
