import pytest

from prune2deploy.errors import InputError
from prune2deploy.tasks.labels import LabelColumn, as_text, class_of_label, label_texts

TOPICS = ("art", "sport", "war")
STARS = ("1", "2", "3")
FOLDERS = tuple(sorted(map(str, range(12))))  # 0, 1, 10, 11, 2: as image folders number them
UNNAMED = ("LABEL_0", "LABEL_1", "LABEL_2")


def column(values, names=None, split="train"):
    return LabelColumn(split, list(values), names and list(names), lambda row: f"{split}.csv, line {row + 2}")


def classes(values, names, class_names=None):
    found = column(values, class_names)
    of = class_of_label([found], names, "data")
    return [of[text] for text in label_texts(found, names)]


def refusal(function, *args):
    with pytest.raises(InputError) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "names", "class_names", "expected"),
    [
        (["war", "art"], TOPICS, None, [2, 0]),
        (["War", " ART "], TOPICS, None, [2, 0]),
        (["cat", "Dog"], ("DOG", "Cat"), None, [1, 0]),
        (["neg", "NEG"], ("NEG", "neg"), None, [1, 0]),
        (["cafe\u0301"], ("x", "caf\u00e9"), None, [1]),  # as macOS writes names of folders
        ([2, 0, 1], TOPICS, None, [2, 0, 1]),
        (["2", "0"], TOPICS, None, [2, 0]),
        ([2.0, 0.0], TOPICS, None, [2, 0]),
        (["2.0", "0.0"], TOPICS, None, [2, 0]),
        (["LABEL_2", "label_0"], TOPICS, None, [2, 0]),
        (["war", 0, "1"], TOPICS, None, [2, 0, 1]),
        # numbers that are names
        ([1, 2, 3], STARS, None, [0, 1, 2]),
        (["1", "3"], STARS, None, [0, 2]),
        ([1.0, 2.0], STARS, None, [0, 1]),
        ([0, 1, 2], STARS, None, [0, 1, 2]),  # not all are names, so none is
        (["10", "2"], FOLDERS, None, [2, 4]),
        ([10, 2], FOLDERS, None, [2, 4]),
        ([2, 4], FOLDERS, FOLDERS, [2, 4]),  # the names of a ClassLabel, 10 and 2
        ([1.5, 2.0], ("1.0", "1.5", "2.0"), None, [1, 2]),
        # truth values
        ([True, False], ("False", "True"), None, [1, 0]),
        (["true", "FALSE"], ("False", "True"), None, [1, 0]),
        ([True, False], ("LABEL_0", "LABEL_1"), None, [1, 0]),
        # what a ClassLabel numbers
        ([0, 1, 2], TOPICS, ("war", "art", "sport"), [2, 0, 1]),
        ([0, 1], TOPICS, ("WAR", "Art", "no gold"), [2, 0]),  # only names that occur have to be the model's
        ([0, 2, 1], UNNAMED, ("bad", "fair", "good"), [0, 2, 1]),
        ([0, 1], UNNAMED, ("bad", "fair", "good", "no gold"), [0, 1]),
        ([0, 1], UNNAMED, ("1", "2", "3"), [0, 1]),  # 3 is no class, so the ClassLabel's number counts
        ([1, 0], TOPICS, ("0", "1", "2"), [1, 0]),
        ([1, 0], TOPICS, ("0", "1"), [1, 0]),
        # words that some take for missing
        (["None", "NA", "nan"], ("NA", "None", "nan"), None, [1, 0, 2]),
        (["", "x"], ("x", ""), None, [1, 0]),
        (["yes\rno"], ("yes\rno", "pos"), None, [0]),
    ],
)
def test_labels_become_the_models_own_classes(values, names, class_names, expected):
    assert classes(values, names, class_names) == expected


@pytest.mark.parametrize("values", [["1", "2", "10"], [1, 2, 10], [1.0, 2.0, 10.0], ["1.0", "2.0", "10.0"]])
@pytest.mark.parametrize("names", [("1", "10", "2"), ("1", "2", "10")])
def test_one_data_set_is_read_in_one_way(values, names):
    assert classes(values, names) == [names.index(name) for name in ("1", "2", "10")]


@pytest.mark.parametrize("value", [3, -1, 1.5, True, "poetry", "3", "sports"])
def test_label_that_the_model_does_not_know_is_named(value):
    message = refusal(classes, ["art", "sport", value], TOPICS)
    assert f"train.csv, line 4: label {value!r} is not one of the model's 3 classes (art, sport, war)" in message


@pytest.mark.parametrize(
    ("values", "names", "class_names", "problem"),
    [
        (["entailment", "neutral"], ("yes", "no"), None, "the data has 2 labels (entailment, neutral)"),
        ([0, 1], ("neg", "pos"), ("negative", "positive"), "label 'negative' is not one of the model's 2"),
        (["cat"], ("Cat", "CAT"), None, "label 'cat' is not one of"),
        (["neg", "pos"], UNNAMED, None, "the model's 3 classes (LABEL_0, LABEL_1, LABEL_2)"),
        ([0, 1], UNNAMED, ("neg", "pos"), "label 'neg' is not one of"),  # two names are no numbering of three classes
        ([True, False], ("neg", "pos"), None, "the data has 2 labels (False, True)"),
        ([0, 1, 4], STARS, None, "label 4 is not one of the model's 3 classes (1, 2, 3)"),
        ([2, 4], UNNAMED * 4, FOLDERS, "label '10' may be class 10 of the model, or 2, as the data numbers it"),
        ([2, 4], tuple("abcdefghijkl"), FOLDERS, "may be class 10 of the model, or 2"),
        ([0.25, 0.5], TOPICS, None, "numbers with a fraction are scores, and the model has classes"),
        (["3.75", "4.0"], TOPICS, None, "are scores, and the model has classes"),
    ],
)
def test_labels_that_do_not_fit_the_model(values, names, class_names, problem):
    assert problem in refusal(classes, values, names, class_names)


@pytest.mark.parametrize("value", [[0, 1], [], {"a": 1}])
def test_several_labels_a_sample_are_another_task(value):
    message = refusal(classes, ["art", value], TOPICS)
    assert "train.csv, line 3: the label is a" in message
    assert "several labels a sample are for --task multi-label" in message


def test_row_with_another_kind_of_label_is_the_one_that_is_named():
    mixed = [b'"art"', b'"sport"', b"null", b'["art"]', b'"war"']  # how a column of JSON holds values of several kinds
    assert "train.csv, line 5: the label is a list: several labels" in refusal(classes, mixed, TOPICS)
    mixed = [b'["art"]', b'["sport"]', b'"war"']
    assert "train.csv, line 4: the label is 'war' among lists" in refusal(classes, mixed, TOPICS)


def test_labels_of_bytes_are_no_text():
    assert "train.csv, line 2: the label is bytes and no text; store" in refusal(classes, [b"art", b"war"], TOPICS)


@pytest.mark.parametrize("labels", [["01", "02"], ["1.0", "2.0"], ["01.00", "2."], ["001", 2]])
@pytest.mark.parametrize(("names", "expected"), [(("1", "2", "3", "4"), [0, 1]), (UNNAMED, [1, 2]), (("02", "01"), [1, 0])])
def test_zeros_that_change_no_number(labels, names, expected):
    assert classes(labels, names) == expected


def test_zero_is_zero():
    assert classes(["00", "0", "0.0", "10"], tuple(f"LABEL_{index}" for index in range(11))) == [0, 0, 0, 10]


@pytest.mark.parametrize("value", [None, float("nan"), "", "  "])
def test_what_is_missing(value):
    assert label_texts(column(["art", value]), TOPICS) == ["art", None]


def test_minus_one_of_a_class_label_is_missing_and_other_numbers_are_refused():
    assert label_texts(column([1, -1], ("a", "b")), TOPICS) == ["b", None]
    assert "label '7'" in refusal(classes, [7], TOPICS, ("art", "war"))


def test_both_splits_are_read_alike():
    splits = [column([1, 2], split="train"), column([3, 1], split="validation")]
    assert class_of_label(splits, STARS, "data") == {"1": 0, "2": 1, "3": 2}
    # by themselves, the labels of the first would be names, and those of the second are not
    splits = [column([1, 2]), column([0, 1], split="validation")]
    assert class_of_label(splits, STARS, "data") == {"0": 0, "1": 1, "2": 2}


def test_splits_that_number_their_labels_otherwise():
    splits = [column([0], ("a", "b")), column([0], ("b", "a"), split="validation")]
    message = refusal(class_of_label, splits, UNNAMED, "data")
    assert "a, b in 'train', b, a in 'validation'" in message


def test_long_lists_are_cut_short():
    message = refusal(classes, [f"x {index}" for index in range(1000)], tuple(f"class {index}" for index in range(1000)))
    assert len(message) < 500
    assert "… 1000 in all" in message


@pytest.mark.parametrize(
    ("value", "text"), [(1, "1"), (1.0, "1"), (True, "True"), ("a ", "a "), (0.5, "0.5"), (None, None)]
)
def test_values_as_text(value, text):
    assert as_text(value) == text
