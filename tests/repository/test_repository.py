import os
import shutil
import time
from pathlib import Path

import packages
import pytest
from packages import flip
from steady import answer, cli, files_in, refused, rewrite

from prune2deploy.errors import InputError
from prune2deploy.repository.check import check_repository
from prune2deploy.repository.manifest import PartManifest, entry_name, own_files, read_manifest, seal_problems, write_sealed
from prune2deploy.repository.versions import located, publish, rollback, staging, versions_of

pytest.importorskip("tritonclient.grpc")


@pytest.fixture
def repository(tmp_path):
    return tmp_path / "models"


def bias_of(entry, version):
    return packages.onnx.load(entry / str(version) / "model.onnx").graph.initializer[2].raw_data[:4]


def problems_of(repository):
    return {entry.name: entry.problems for entry in check_repository(repository) if entry.problems}


def test_versions_follow_each_other_and_old_ones_go(repository):
    assert [packages.release(repository, "sums", bias, keep=2) for bias in range(1, 6)] == [1, 2, 3, 4, 5]
    assert versions_of(repository / "sums") == [3, 4, 5]
    assert problems_of(repository) == {}
    assert sorted(path.name for path in repository.parent.iterdir()) == ["models"], "nothing is left beside it"


def test_keeping_none_leaves_the_newest(repository):
    for bias in (1, 2):
        packages.release(repository, "sums", bias, keep=0)
    assert versions_of(repository / "sums") == [2]


def test_version_that_a_server_may_be_loading_stays(repository, monkeypatch):
    for _ in range(4):
        packages.release(repository, "sums", keep=1, grace=60)
    assert versions_of(repository / "sums") == [1, 2, 3, 4]
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 61)
    packages.release(repository, "sums", keep=1, grace=60)
    assert versions_of(repository / "sums") == [4, 5]


def test_what_a_server_has_read_stays_as_it_is(repository):
    packages.release(repository, "sums", 1)
    before = {name: content for name, content in files_in(repository).items() if "/2" not in name}
    packages.release(repository, "sums", 2)
    after = files_in(repository)
    assert {name: after[name] for name in before} == before


def test_a_model_that_is_served_differently_is_another_model(repository):
    packages.release(repository, "sums", 1)
    before = files_in(repository)
    with pytest.raises(InputError, match=r"another config\.pbtxt \(here: max_queue_delay_microseconds: 9\).*--name"):
        packages.release(repository, "sums", 2, queue_delay_us=9)
    assert files_in(repository) == before
    packages.release(repository, "sums_quick", 2, queue_delay_us=9)
    assert [entry.name for entry in check_repository(repository)] == ["sums", "sums_quick"]


def test_failure_on_the_way_leaves_nothing(repository):
    def fail():
        with staging(repository, "sums") as stage:
            packages.write_staged(stage / "sums", 1, 0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(repository.parent.iterdir()) == []


def test_two_exports_of_one_name_do_not_mix(repository):
    with staging(repository, "sums"):
        with pytest.raises(InputError, match="another process is exporting 'sums'"), staging(repository, "sums"):
            pass
        assert packages.release(repository, "other", 1) == 1
    assert packages.release(repository, "sums", 1) == 1


# folders for staging that come and go


def root_of(repository):
    return repository.resolve().parent / f".{repository.name}.staging"


@pytest.mark.parametrize("lost", ["folder", "root"])
def test_folder_that_is_removed_under_an_export(lost, repository):
    def fail():
        with staging(repository, "sums") as stage:
            shutil.rmtree(stage if lost == "folder" else stage.parent)
            (stage / "sums").mkdir()

    with pytest.raises(InputError, match="sums was removed while something was being made in it; run this again"):
        fail()
    assert list(repository.parent.iterdir()) == []
    assert packages.release(repository, "sums", 1) == 1


def test_folder_that_is_removed_when_all_was_moved_out_of_it(repository):
    with staging(repository, "sums") as stage:
        packages.write_staged(stage / "sums", 1, 0)
        publish(stage / "sums", repository / "sums", keep=2)
        shutil.rmtree(stage.parent)
    assert list(repository.parent.iterdir()) == [repository]


def test_root_that_another_export_takes_away_when_it_ends(repository, monkeypatch):
    """Between its being made and its being used."""
    real, left = Path.open, [1]

    def opened(self, *args, **kwargs):
        if self.name == ".sums.lock" and left:
            left.pop()
            root_of(repository).rmdir()
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", opened)
    assert packages.release(repository, "sums", 1) == 1
    assert not left


def test_repository_that_another_export_takes_away_when_it_fails(repository):
    repository.mkdir()
    with staging(repository, "sums") as stage:
        packages.write_staged(stage / "sums", 1, 0)
        repository.rmdir()
        publish(stage / "sums", repository / "sums", keep=2)
    assert versions_of(repository / "sums") == [1]


@pytest.mark.parametrize("where", ["folder", "root"])
def test_something_else_where_the_folder_should_be(where, repository):
    root = root_of(repository)
    path = root if where == "root" else root / "sums"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    with pytest.raises(InputError, match=rf"{path.name}: .*; remove it"), staging(repository, "sums"):
        pass
    assert path.is_file()


def test_what_a_killed_export_left_is_taken_away(repository):
    (root_of(repository) / "sums" / "sums" / "1").mkdir(parents=True)
    (root_of(repository) / ".sums.lock").touch()
    assert packages.release(repository, "sums", 1) == 1
    assert list(repository.parent.iterdir()) == [repository]


def test_directory_of_somebody_else_is_left_alone(repository):
    (repository / "sums" / "1").mkdir(parents=True)
    (repository / "sums" / "1" / "model.onnx").write_bytes(b"mine")
    with pytest.raises(InputError, match="is there and not to be added to"):
        packages.release(repository, "sums", 1)
    assert (repository / "sums" / "1" / "model.onnx").read_bytes() == b"mine"


def test_root_of_a_file_system_is_refused(repository, monkeypatch):
    real = os.stat

    def stat(path, *args, **kwargs):
        found = real(path, *args, **kwargs)
        if str(path) == str(repository):
            fields = list(found)
            fields[2] += 1
            return os.stat_result(fields)
        return found

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(InputError, match="is the root of a file system"), staging(repository, "sums"):
        pass


# rollback


def test_rollback_serves_what_was_before(repository):
    for bias in (1, 2, 3):
        packages.release(repository, "sums", bias, keep=5)
    entry = repository / "sums"
    biases = {version: bias_of(entry, version) for version in (1, 2, 3)}
    assert rollback(entry) == (2, 4)
    assert bias_of(entry, 4) == biases[2]
    assert rollback(entry) == (1, 5), "a second one goes further back, not to what was rolled back from"
    assert bias_of(entry, 5) == biases[1]
    with pytest.raises(InputError, match="no version before 1 is kept"):
        rollback(entry)
    assert [read_manifest(entry / str(version)).restored_from for version in range(1, 6)] == [None, None, None, 2, 1]
    assert problems_of(repository) == {}
    assert packages.release(repository, "sums", 4, keep=5) == 6
    assert rollback(entry) == (5, 7)


def test_rollback_to_a_damaged_version_is_refused(repository):
    for bias in (1, 2):
        packages.release(repository, "sums", bias)
    flip(repository / "sums" / "1" / "model.onnx")
    refused(cli("repository", "rollback", repository / "sums"), "version 1 cannot be served again", "model.onnx was changed")
    assert versions_of(repository / "sums") == [1, 2]


def test_rollback_of_an_entry_around_a_model(repository):
    packages.release(repository, "sums")
    with staging(repository, "sums_labels") as stage:
        for version in (1, 2):
            folder = stage / "sums_labels" / str(version)
            folder.mkdir(parents=True)
            (folder / "labels.txt").write_text(f"{version}\n")
            part = PartManifest(
                name="sums_labels", version=version, created_at="2026-01-01T00:00:00+00:00", model="sums", role="labels",
                requirements=[], files=own_files(folder), shared={},
            )  # fmt: skip
            write_sealed(part, folder)
        (stage / "sums_labels").rename(repository / "sums_labels")
    assert rollback(repository / "sums_labels") == (1, 3)
    assert (repository / "sums_labels" / "3" / "labels.txt").read_text() == "1\n"


@pytest.mark.parametrize("path", ["sums/1/..", "sums/", "link", "other/../sums"])
def test_rollback_by_any_path_to_the_entry(path, repository):
    for _ in range(2):
        packages.release(repository, "sums")
    (repository / "other").mkdir()
    (repository / "link").symlink_to(repository / "sums")
    before = files_in(repository / "sums")
    said = answer(cli("repository", "rollback", f"{repository}/{path}", "--json"))
    assert (said["restored"], said["version"]) == (1, 3)
    after = files_in(repository / "sums")
    assert {name: after[name] for name in before} == before


def test_rollback_from_inside_the_entry(repository, monkeypatch):
    for _ in range(2):
        packages.release(repository, "sums")
    monkeypatch.chdir(repository / "sums" / "1")
    assert answer(cli("repository", "rollback", "..", "--json"))["version"] == 3
    assert versions_of(repository / "sums") == [1, 2, 3]
    refused(cli("repository", "rollback", repository / "sums" / "2"), "is a version; name the entry")


def test_rollback_from_a_version_that_is_broken(repository):
    for _ in range(2):
        packages.release(repository, "sums")
    (repository / "sums" / "2" / "manifest.json").write_text("{")
    assert rollback(repository / "sums") == (1, 3)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b"])
def test_names_that_would_lead_elsewhere_are_refused(name, repository):
    packages.release(repository, "sums")
    before = files_in(repository)
    with pytest.raises(InputError, match="can be no entry"), staging(repository, name):
        pass
    assert files_in(repository) == before


def test_rollback_on_the_command_line(repository):
    for bias in (1, 2):
        packages.release(repository, "sums", bias)
    said = answer(cli("repository", "rollback", repository / "sums", "--json"))
    assert said == {"path": str(repository / "sums"), "restored": 1, "version": 3}


# the check


def test_good_repository_passes(repository):
    packages.release(repository, "a", 1)
    packages.release(repository, "a", 2)
    packages.release(repository, "b", 1)
    result = cli("repository", "check", repository)
    assert result.exit_code == 0, result.stdout
    assert result.stdout.splitlines() == ["passed  a (model), versions: 1, 2", "passed  b (model), versions: 1"]


def swap(first, second):
    between = first.with_name("between")
    first.rename(between)
    second.rename(first)
    between.rename(second)


DAMAGE = {
    "model": (lambda entry: flip(entry / "1" / "model.onnx"), "1/model.onnx was changed"),
    "code": (lambda entry: flip(entry / "2" / "model.py"), "2/model.py was changed"),
    "configuration": (lambda entry: flip(entry / "config.pbtxt"), "config.pbtxt was changed"),
    "labels": (lambda entry: flip(entry / "labels.txt"), "labels.txt was changed"),
    "warm-up": (lambda entry: flip(entry / "warmup" / "workload.input_ids"), "warmup/workload.input_ids was changed"),
    "file gone": (lambda entry: (entry / "2" / "model.py").unlink(), "2/model.py is missing"),
    "file added": (lambda entry: (entry / "2" / "extra.py").write_text(""), "2/extra.py was added"),
    "file added above": (lambda entry: (entry / "notes.txt").write_text(""), "notes.txt was added"),
    "gap": (lambda entry: shutil.rmtree(entry / "2"), "version 2 is missing between 1 and 3"),
    "wide gap": (lambda entry: (entry / "3").rename(entry / "99999999999"), "version 3 to 99999999998 is missing"),
    "zero": (lambda entry: (entry / "04").mkdir(), "version directory '04': a server passes over it"),
    "no manifest": (lambda entry: (entry / "3" / "manifest.json").unlink(), "no manifest.json here"),
    "another number": (lambda entry: (entry / "3").rename(entry / "4"), "version 4 was made as version 3"),
    "swapped": (lambda entry: swap(entry / "1", entry / "3"), "version 1 was made as version 3"),
    "manifest": (lambda entry: rewrite(entry / "2" / "manifest.json", '"tolerance": 0.0001', '"tolerance": 1e9'),
                 "the manifest of version 2 was changed"),
    "another name": (lambda entry: entry.rename(entry.with_name("other")), "version 1 was made as 'sums'"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found(damage, repository):
    for bias in (1, 2, 3):
        packages.release(repository, "sums", bias)
    change, wanted = DAMAGE[damage]
    change(repository / "sums")
    found = answer(cli("repository", "check", repository, "--json"), code=1)
    [entry] = found["entries"]
    assert any(wanted in problem for problem in entry["problems"]), entry["problems"]


def test_directory_that_is_no_package_is_found(repository):
    packages.release(repository, "sums", 1)
    (repository / ".half").mkdir()
    assert problems_of(repository) == {".half": ["no version directory here, so this is not a package of prune2deploy"]}


def test_compiled_python_that_a_server_left_is_no_damage(repository):
    packages.release(repository, "sums", 1)
    cache = repository / "sums" / "1" / "__pycache__"
    cache.mkdir()
    (cache / "model.cpython-311.pyc").write_bytes(b"compiled")
    [state] = check_repository(repository)
    assert (state.problems, state.unchecked) == ([], ["1/__pycache__/model.cpython-311.pyc"])
    assert "not checked: 1 compiled" in cli("repository", "check", repository).stdout


def test_entry_is_no_repository(repository):
    packages.release(repository, "sums")
    refused(cli("repository", "check", repository / "sums"), "is an entry; give the repository")


def test_repository_that_is_linked(repository, tmp_path):
    repository.mkdir()
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "models"
    link.symlink_to(repository)
    packages.release(link, "sums")
    assert versions_of(repository / "sums") == [1]
    assert list((tmp_path / "elsewhere").iterdir()) == [link]


def test_no_repository(tmp_path):
    refused(cli("repository", "check", tmp_path / "none"), "none: no such model repository")
    refused(cli("repository", "check", tmp_path), "no models here")
    refused(cli("repository", "rollback", tmp_path / "none"), "no such package")


def test_a_package_is_named_by_its_entry_or_its_version(repository):
    for bias in (1, 2):
        packages.release(repository, "sums", bias)
    entry = repository / "sums"
    assert located(entry) == (entry, "2")
    assert located(entry / "1") == (entry, "1")


# a process that is killed


def problems_of_visible(entry, version):
    """None where it was retired while it was read: on a busy machine the process makes 20 others in that time."""
    try:
        problems = seal_problems(entry, str(version))
    except InputError as error:
        problems = [str(error)]
    return problems if version in versions_of(entry) else []


def test_killed_at_any_moment_every_visible_version_is_whole(repository):
    seen = set()
    for round_ in range(6):
        with packages.releasing(repository, keep=20):
            until = time.monotonic() + 0.15 + 0.11 * round_
            while time.monotonic() < until:
                for version in versions_of(repository / "sums")[-1:]:
                    assert problems_of_visible(repository / "sums", version) == []
                    seen.add(version)
        assert problems_of(repository) == {}
        assert len(versions_of(repository / "sums")) <= 22
    assert len(seen) > 6
    packages.release(repository, "sums", 1, keep=1)
    assert sorted(path.name for path in repository.parent.iterdir()) == ["models"], "what the killed ones left is gone"


def test_a_version_that_is_retired_while_it_is_checked_is_no_problem(repository, monkeypatch):
    for bias in (1, 2, 3):
        packages.release(repository, "sums", bias)

    def retiring(entry, version):
        if version == "1":
            shutil.rmtree(entry / version)
        return seal_problems(entry, version)

    monkeypatch.setattr("prune2deploy.repository.check.seal_problems", retiring)
    assert problems_of(repository) == {}


def test_version_that_is_published_twice_is_no_overwrite(repository, tmp_path):
    packages.release(repository, "sums", 1)
    packages.write_staged(tmp_path / "sums", 1, 2)
    packages.seal(tmp_path / "sums", 1)
    before = files_in(repository)
    with pytest.raises(OSError, match=r"not empty|exists"):
        publish(tmp_path / "sums", repository / "sums", 2)
    assert files_in(repository) == before


NAMES = [("checkpoint-500", "checkpoint-500"), ("my model (2)", "my_model_2"), ("a模b", "a_b")]


@pytest.mark.parametrize(("model", "name"), NAMES)
def test_entry_is_called_after_the_model(model, name, make_project, tmp_path):
    assert entry_name(None, make_project(model, "data", "text-classification", tmp_path)) == name


def test_model_whose_name_no_entry_can_have(make_project, tmp_path):
    with pytest.raises(InputError, match="'模型' makes no name for an entry: give one with --name"):
        entry_name(None, make_project("模型", "data", "text-classification", tmp_path))
