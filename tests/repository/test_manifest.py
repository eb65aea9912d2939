"""Manifests of other releases: those in data/ were written when a digest was still taken of all fields, set or not."""

import json
import shutil
from pathlib import Path

import packages
import pytest

from prune2deploy.repository import manifest
from prune2deploy.repository.manifest import digest_of, read_manifest, read_sealed, seal_problems, write_sealed

DATA = Path(__file__).parent / "data"
OLD = {"manifest.json": DATA / "manifest-version-1.json", "part.json": DATA / "part-version-1.json"}
CHANGED = "the manifest of version 1 was changed"


@pytest.fixture(params=OLD)
def old(request, tmp_path):
    """A version directory with an old manifest."""
    version = tmp_path / "sums" / "1"
    version.mkdir(parents=True)
    shutil.copy(OLD[request.param], version / request.param)
    return version / request.param


def edit(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def test_old_manifest_is_read_and_its_digest_holds(old):
    assert read_sealed(old.parent).schema_version == 1
    assert CHANGED not in seal_problems(old.parent.parent, "1")


def test_old_manifest_that_was_changed_is_found(old):
    edit(old, created_at="2027-01-01T00:00:00+00:00")
    assert CHANGED in seal_problems(old.parent.parent, "1")


def test_new_field_of_a_later_release_breaks_no_package(tmp_path, monkeypatch):
    packages.release(tmp_path, "sums")

    class Later(manifest.Manifest):
        instructions: list[str] | None = None
        strictness: int = 3

    monkeypatch.setattr(manifest, "Manifest", Later)
    assert read_sealed(tmp_path / "sums" / "1").strictness == 3
    assert seal_problems(tmp_path / "sums", "1") == []


def test_new_manifest_that_was_changed_is_found(tmp_path):
    packages.release(tmp_path, "sums")
    file = tmp_path / "sums" / "1" / "manifest.json"
    for change in ({"speedup": 9.0}, {"limit_ms": 3.0}, {"restored_from": 1}):
        before = file.read_text(encoding="utf-8")
        edit(file, **change)
        assert CHANGED in seal_problems(tmp_path / "sums", "1")
        file.write_text(before, encoding="utf-8")
    edit(file)  # the same values in another layout
    assert seal_problems(tmp_path / "sums", "1") == []


def test_what_is_written_is_of_the_newest_version(tmp_path):
    shutil.copy(OLD["manifest.json"], tmp_path / "manifest.json")
    write_sealed(read_manifest(tmp_path), tmp_path)
    stored = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert stored["schema_version"] == 2
    assert stored["digest"] == digest_of(stored)
