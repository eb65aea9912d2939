"""What README.md says of files and splits."""

import pytest
from test_layout import lay, refusal, splits

from prune2deploy.data.layout import layout_of

FILES = ("a.csv", "b.csv", "deep/c.csv", "old/d.csv")


def say(root, text, name="README.md"):
    lay(root, *FILES)
    (root / name).write_text(f"---\nlicense: mit\n{text}\n---\n# Data\n" if name.endswith(".md") else text)
    return root


def configs(*lines):
    return "\n".join(["configs:", "- config_name: default", *(f"  {line}" for line in lines)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            configs("data_files:", "- split: test", "  path: a.csv", "- split: train", "  path: b.csv"),
            {"test": ["a.csv"], "train": ["b.csv"]},
        ),
        (configs("data_files: deep/c.csv"), {"train": ["deep/c.csv"]}),
        (configs("data_files: [a.csv, ./deep/c.csv]"), {"train": ["a.csv", "deep/c.csv"]}),
        (configs("data_files: {dev: b.csv, my train: '*/[!d].csv'}"), {"dev": ["b.csv"], "my_train": ["deep/c.csv"]}),
        (configs("data_files: '*'"), {"train": ["a.csv", "b.csv"]}),
        (configs("data_files: '**/?.csv'"), {"train": ["a.csv", "b.csv", "deep/c.csv", "old/d.csv"]}),
        (configs("default: true", "data_dir: deep", "data_files: c*"), {"train": ["deep/c.csv"]}),
        (configs("data_dir: old"), {"d": ["old/d.csv"]}),
        ("configs: []", {"a": ["a.csv"], "b": ["b.csv"]}),
        ("other: [1]", {"a": ["a.csv"], "b": ["b.csv"]}),
    ],
)
def test_files_are_those_that_are_named(tmp_path, text, expected):
    assert splits(say(tmp_path, text)) == expected


def test_settings_in_a_file_of_their_own(tmp_path):
    say(tmp_path, configs("data_files: b.csv"), ".huggingface.yaml")
    assert splits(tmp_path) == {"train": ["b.csv"]}


def test_card_without_settings_says_nothing(tmp_path):
    lay(tmp_path, *FILES)
    (tmp_path / "README.md").write_text("configs:\n- not: settings\n\n---\n: : :\n---\n")
    assert splits(tmp_path) == {"a": ["a.csv"], "b": ["b.csv"]}


def test_names_are_literal_where_there_is_such_a_file(tmp_path):
    lay(tmp_path, "x[1].csv", "x1.csv")
    say(tmp_path, configs("data_files: 'x[1].csv'"))
    assert splits(tmp_path) == {"train": ["x[1].csv"]}


def test_files_that_are_not_named_are_left_out(tmp_path):
    say(tmp_path, configs("data_files: a.csv"))
    wanted = [f"{name}: not named in README.md" for name in FILES[1:]]
    assert layout_of(tmp_path).left_out == wanted


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "configs:\n- config_name: en\n  data_dir: en\n- config_name: de\n  data_dir: de",
            "README.md: describes several configurations (en, de); name the files or the folder of one",
        ),
        (configs("data_files: gone*.csv"), "`data_files` names 'gone*.csv', which is not there"),
        (configs("data_files: old/x.png"), "`data_files` names old/x.png, which cannot be read as rows"),
        (configs("data_dir: gone"), "`data_dir` is 'gone', which is no folder here"),
        (configs("data_files: a.csv", "sep: ';'"), "`configs` sets 'sep', which is not followed here"),
        (configs("data_files: [{split: train}]"), "`data_files` names no path for split 'train'"),
        (configs("data_files: [{split: train, path: [a.csv, 3]}]"), "`data_files` names no path for split 'train'"),
        ("configs: yes", "`configs` is no list of configurations"),
        ("configs:\n  - a: b\n c: d", "README.md, line 5: the settings between --- cannot be read as YAML"),
        (configs("data_files: train-*"), "train-00001-of-00002.csv: this shard of split 'train' is missing"),
    ],
)
def test_cards_that_cannot_be_followed(tmp_path, text, problem):
    lay(tmp_path, "old/x.png", "train-00000-of-00002.csv")
    assert problem in refusal(say(tmp_path, text))
