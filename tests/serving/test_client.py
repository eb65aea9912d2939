"""What needs no server: addresses, a server that is not there, load that is planned."""

import sys

import numpy as np
import packages
import pytest
from steady import cli, refused

from prune2deploy.errors import InputError, MissingPackageError
from prune2deploy.serving import Client
from prune2deploy.serving.bench import Request, Tally, poisson, requests_for, summed
from prune2deploy.serving.client import encoded


@pytest.mark.parametrize("url", ["", "http://", "ftp://host:1", "grpc://"])
def test_address_that_is_none(url):
    with pytest.raises(InputError, match="give host:port"):
        Client(url)


@pytest.mark.parametrize("url", ["127.0.0.1:9", "http://127.0.0.1:9", "grpc://127.0.0.1:9", "no.such.host.invalid:8000"])
def test_server_that_is_not_there(url):
    refused(cli("client", url, "topics_text", "a text"), url)
    with Client(url, timeout=2) as client:
        assert not client.ready("topics_text")


def test_bytes_that_are_no_text_are_sent_as_they_are():
    assert encoded("bad\udcff") == b"bad\xff"
    assert encoded("Ä\0\n") == "Ä\0\n".encode()


def test_texts_and_images_do_not_mix(tmp_path):
    refused(cli("client", "127.0.0.1:9", "m", "a text", "--image", tmp_path / "a.png"), "give texts or images, not both")
    refused(cli("client", "127.0.0.1:9", "m", "--image", tmp_path / "none.png"), "none.png")


@pytest.mark.parametrize(
    ("url", "module"), [("localhost:8000", "tritonclient.http"), ("grpc://localhost:8001", "tritonclient.grpc")]
)
def test_without_tritonclient_the_extra_is_named(url, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError, match=r"prune2deploy\[triton\]"):
        Client(url)


def test_poisson_arrivals_have_their_rate_and_repeat():
    times = [[due() for _ in range(20_000)] for due in (poisson(50, 3), poisson(50, 3), poisson(50, 4))]
    assert times[0] == times[1] != times[2]
    gaps = np.diff(times[0])
    assert gaps.min() > 0
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03)
    assert gaps.std() == pytest.approx(1 / 50, rel=0.05), "as spread as it is long: exponential"


def test_answers_are_counted_as_what_they_are():
    request = Request({}, {"logits": np.array([[1.0, 2.0]], np.float32)}, {})
    tally = Tally()
    for given in ([[1.0, 2.0]], [[1.0, 2.005]], [[1.0, 2.5]], [[np.nan, 2.0]], [[1.0]], None):
        tally.spans.append(0.01)
        tally.note(request, {} if given is None else {"logits": np.array(given, np.float32)}, 0.01)
    found = summed([tally], wall=0.5)
    assert (found["requests"], found["samples"], found["wrong"]) == (6, 6, 4)
    assert found["samples_per_second"] == 12
    assert (found["p50_ms"], found["p99_ms"]) == (pytest.approx(10), None)


def test_an_answer_is_right_where_every_output_is():
    right = {"start": np.zeros((2, 3), np.float32), "end": np.ones((2, 3), np.float32)}
    request = Request({}, right, {})
    tally = Tally()
    for given in (
        right | {"LABEL": np.array([b"unasked"])}, dict(reversed(right.items())),
        right | {"end": right["start"]}, right | {"start": right["end"]}, {"start": right["start"]},
        {"start": right["end"], "end": right["start"]},
    ):  # fmt: skip
        tally.note(request, given, 0.01)
    assert (tally.samples, tally.wrong, tally.largest) == (12, 4, 1.0)


def test_requests_are_those_of_the_package(tmp_path):
    packages.release(tmp_path, "sums", 7)
    package, [request], tolerance = requests_for(tmp_path / "sums")
    assert (package, tolerance) == (tmp_path / "sums" / "1", 1e-4)
    np.testing.assert_equal(request.wanted, {"logits": packages.expected(request.inputs, 7)})


def test_bench_is_told_what_to_do(tmp_path):
    packages.release(tmp_path, "sums", 7)
    for options, needle in (
        (["--rate", 5, "--concurrency", 2], "give one of --concurrency and --rate"), (["--rate", -1], "--rate above 0"),
        (["--concurrency", 0], "--concurrency is 1 or more"), (["--seconds", 0], "give a time above 0"),
        (["--out", "result"], "ends in .json"), ([], "is the server running"),
    ):  # fmt: skip
        refused(cli("bench", "127.0.0.1:9", "sums", "--repository", tmp_path, *options), needle)
