"""One job on the real clock, from `profile` to `validate`: everywhere else a steady one stands in for it.

Nothing is asserted of times but what the product itself promises of them: a package that passed keeps its budget, and a
machine that is too restless ends in one line with nothing written. Other tests keep the other core busy meanwhile.
"""

import json

import exports
import pytest
from steady import answer, cli

from prune2deploy.runtimes.load import OtherLoad


def measured(*arguments):
    """What a command that measures said; None where it could not do on this machine what was asked of it, and said so."""
    result = cli(*arguments, "--json")
    if result.exit_code == 0:
        return json.loads(result.stdout)
    assert result.exit_code == 1, result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert any(words in last for words in ("again", "budget", "ask for")), last
    return None


@pytest.mark.slow
def test_from_profile_to_validate(bert_dir, text_data, tmp_path, monkeypatch):
    exports.share(monkeypatch)
    monkeypatch.setattr(OtherLoad, "problem", None)
    monkeypatch.chdir(tmp_path)
    answer(cli("init", bert_dir, "--data", text_data, "--seq-len", 32, "--threads", 1, "--samples", 16, "--json"))
    if measured("profile") is None:
        assert not list(tmp_path.glob("profiles/**/*.json"))
        return
    [table] = tmp_path.glob("profiles/**/*.json")
    for point in json.loads(table.read_text(encoding="utf-8"))["points"]:
        assert 0 < point["fixed_ms"] < point["dense_ms"]
    said = measured("run", "--speedup", 1.1)
    if said is None:
        assert not (tmp_path / "model_repository").exists() or not list((tmp_path / "model_repository").glob("*/1"))
        return
    manifest = json.loads((tmp_path / said["path"] / "1" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["verdict"] == "passed"
    assert 0 < manifest["measured_ms"] <= manifest["limit_ms"] < manifest["dense_ms"]
    result = cli("validate", said["path"], "--json")
    checks = json.loads(result.stdout)["checks"]
    failed = [check["name"] for check in checks if not check["passed"]]
    assert all(name.startswith("budget") or name == "latency" for name in failed)
    assert result.exit_code == bool(failed)
