import pytest

from prune2deploy.data.split_names import Selection, guess_splits, kind_of, selected, selection, share_rows, unused_splits
from prune2deploy.errors import InputError


def refusal(function, *args):
    with pytest.raises(InputError) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("train", "train"), ("training", "train"), ("TRAIN", "train"), ("my-train-set", "train"), ("train2", "train"),
        ("Training.v1", "train"), ("validation", "validation"), ("valid", "validation"), ("dev", "validation"),
        ("val_v2", "validation"), ("validation_mismatched", "validation"), ("test", "test"), ("testing", "test"),
        ("eval", "test"), ("evaluation", "test"), ("x_eval", "test"), ("2test", "test"), ("contest", None),
        ("trainer", None), ("constraint", None), ("latest", None), ("devices", None), ("value", None), ("data", None),
        ("train_eval", None), ("retrain", None), ("étrain", None),
    ],
)  # fmt: skip
def test_what_names_mean(name, kind):
    assert kind_of(name) == kind


def test_keywords_are_those_of_datasets():
    from datasets.data_files import SPLIT_KEYWORDS

    for kind, words in SPLIT_KEYWORDS.items():
        assert {kind_of(word) for word in words} == {str(kind)}


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (["train", "validation", "test"], ("train", "validation")),
        (["test", "dev", "train"], ("train", "dev")),
        (["train", "test"], ("train", "test")),
        (["train", "validation_matched", "validation_mismatched"], ("train", "validation_matched")),
        (["train"], ("train[:50%]", "train[50%:]")),
        (["test"], ("test[:50%]", "test[50%:]")),
        (["testing", "training"], ("training", "testing")),
        (["train_v2", "val_v2"], ("train_v2", "val_v2")),
        (["eval", "train"], ("train", "eval")),
        (["TRAIN", "Test"], ("TRAIN", "Test")),
        (["test", "train", "val"], ("train", "val")),
        (["train", "train_extra", "test"], ("train", "test")),
        (["train_a", "train_b", "dev_a", "dev_b"], ("train_a+train_b", "dev_a+dev_b")),
        (["train_a", "train_b"], ("train_a+train_b[:50%]", "train_a+train_b[50%:]")),
        (["x", "y"], ("x+y[:50%]", "x+y[50%:]")),
        (["fit", "test"], ("fit", "test")),
        (["sample_submission", "train"], ("train[:50%]", "train[50%:]")),
        (["sample_submission", "test", "train"], ("train", "test")),
        (["test", "validation"], ("validation", "test")),
    ],
)
def test_splits_are_guessed(splits, expected):
    assert guess_splits(dict.fromkeys(splits), "data") == expected


def test_data_without_a_split():
    assert "holds no split" in refusal(guess_splits, {}, "data")


def test_splits_that_are_not_used_can_be_told():
    splits = ["train_a", "train_b", "test", "extra"]
    assert unused_splits(splits, guess_splits(dict.fromkeys(splits), "data")) == ["extra"]
    assert unused_splits(["a", "b", "c"], ["b[:50%]", "b[50%:]"]) == ["a", "c"]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("train", "test", False), ("train", "train", True), ("train[:50%]", "train[50%:]", False),
        ("train[:51%]", "train[50%:]", True), ("train", "train[90%:]", True), ("a+b", "b", True), ("a+b", "c", False),
        ("a+b[:50%]", "a+b[50%:]", False), ("a+b[:10%]", "b[:10%]", True),
    ],
)  # fmt: skip
def test_selections_that_share_rows(first, second, expected):
    assert share_rows(first, second) == share_rows(second, first) == expected


@pytest.mark.parametrize(
    ("text", "names", "share"),
    [
        ("train", ("train",), None), ("train[:50%]", ("train",), (0, 50)), ("a+b[25%:75%]", ("a", "b"), (25, 75)),
        ("a+b", ("a", "b"), None), ("a[10%:]", ("a",), (10, 100)), ("日本.v-1", ("日本.v-1",), None),
    ],
)  # fmt: skip
def test_selections(text, names, share):
    assert selection(text) == Selection(names, share)


@pytest.mark.parametrize("text", ["train[", "train[a:b]", "", "train validation", "train[:50%]x", "a+", "+a", "a[:5%]+b"])
def test_selection_that_cannot_be_parsed(text):
    assert "write a name, or a share" in refusal(selection, text)


def test_missing_part_of_a_selection_is_named():
    assert "no split 'c'; it has: a, b" in refusal(selected, "a+c", ["a", "b"], "data")
