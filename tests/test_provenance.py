import pytest
from steady import upgraded

from prune2deploy.provenance import COMPUTED, EXPORTED, cache_key, installed


def test_key_is_the_same_until_something_it_depends_on_changes(monkeypatch):
    key = cache_key(EXPORTED, "model", 18)
    assert cache_key(EXPORTED, "model", 18) == key
    others = {cache_key(EXPORTED, "model", 19), cache_key(EXPORTED, "model1", 8), cache_key(COMPUTED, "model", 18)}
    assert len(others - {key}) == 3
    upgraded(monkeypatch, "onnxruntime")
    assert cache_key(EXPORTED, "model", 18) == key, "it does not export"


@pytest.mark.parametrize("package", EXPORTED)
def test_upgrade_changes_the_key(package, monkeypatch):
    assert package in installed(EXPORTED)
    before = cache_key(EXPORTED, "model")
    upgraded(monkeypatch, package)
    assert cache_key(EXPORTED, "model") != before
