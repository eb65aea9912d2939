"""Places that nothing can be written to, and names that no entry of a repository can have."""

import pytest
from steady import cli, files_in, refused, rewrite

pytest_plugins = ("made",)


def contents(root):
    return {name: content for name, content in files_in(root).items() if content is not None}


@pytest.mark.parametrize(
    "command",
    [("export", "--out", "notes.txt"), ("prune", "--flops", 0.5, "--out", "notes.txt/pruned"),
     ("run", "--speedup", 1.5, "--out", "notes.txt")],
    ids=["export", "prune", "run"],
)  # fmt: skip
def test_output_below_a_file(command, work_pruned, clock):
    (work_pruned / "notes.txt").write_text("mine", encoding="utf-8")
    before = contents(work_pruned)
    refused(cli(*command), "notes.txt")
    assert contents(work_pruned) == before


@pytest.mark.parametrize("name", ["../outside", "a/b", ".hidden"])
def test_name_that_no_entry_can_have(name, work_pruned, clock):
    before = contents(work_pruned.parent)
    refused(cli("export", "--name", name), name)
    assert contents(work_pruned.parent) == before


def test_model_directory_that_is_this_one_has_a_name(work_pruned, bert_made, bert_dir, clock):
    for file in bert_dir.iterdir():
        (work_pruned / file.name).write_bytes(file.read_bytes())
    rewrite(work_pruned / "prune2deploy.toml", bert_made.project.model, ".")
    result = cli("export")
    assert result.exit_code == 0, result.stderr
    assert [path.name for path in (work_pruned / "model_repository").iterdir()] == [work_pruned.name]
