import numpy as np
import packages
import pytest
import tritonserver

from prune2deploy.config import Target
from prune2deploy.repository.triton import parameters_of
from prune2deploy.runtimes.openvino import OpenVino
from prune2deploy.serving import Client


def test_a_real_server_answers_by_openvino(tmp_path):
    if reason := tritonserver.why_not():
        pytest.skip(reason)
    told = parameters_of(OpenVino(Target(runtime="openvino", threads=1)).describe(), "python")
    packages.release(tmp_path / "models", "sums", bias=3, source="openvino_model", parameters=told)
    running = tritonserver.Server(tmp_path / "models", "--disable-auto-complete-config")
    with running as server, Client(server.url) as client:
        for batch, length in ((1, 4), (3, 9), (8, 2)):
            inputs = packages.ragged(np.random.default_rng(batch), batch, length)
            found = client.infer("sums", inputs).outputs["logits"]
            np.testing.assert_allclose(found, packages.expected(inputs, 3), rtol=1e-6)
