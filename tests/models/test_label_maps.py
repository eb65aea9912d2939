from pathlib import Path

import pytest

from prune2deploy.errors import InputError
from prune2deploy.models.label_maps import label_names

HERE = Path("somewhere/config.json")
NAMED = {"0": "neg", "1": "pos"}
INVERSE = {"neg": 0, "pos": 1}
PLACEHOLDERS = {"0": "LABEL_0", "1": "LABEL_1"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"id2label": NAMED, "label2id": INVERSE}, ["neg", "pos"]),
        ({"id2label": NAMED, "label2id": {"neg": "0", "pos": "1"}}, ["neg", "pos"]),
        ({"id2label": NAMED}, ["neg", "pos"]),
        ({"id2label": NAMED, "label2id": None}, ["neg", "pos"]),
        ({"label2id": INVERSE}, ["neg", "pos"]),
        ({"id2label": NAMED, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}, ["neg", "pos"]),
        ({"id2label": {**NAMED, "2": "odd"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}, ["neg", "pos", "odd"]),
        ({"id2label": PLACEHOLDERS, "label2id": INVERSE}, ["neg", "pos"]),
        ({"id2label": {"1": "pos", "0": "neg"}}, ["neg", "pos"]),
        ({"id2label": {"0": 0, "1": 1}}, ["0", "1"]),
        ({"id2label": {str(index): f"c{index}" for index in range(12)}}, [f"c{index}" for index in range(12)]),
        ({"num_labels": 3}, ["LABEL_0", "LABEL_1", "LABEL_2"]),
        ({"id2label": {}, "label2id": {}}, ["LABEL_0", "LABEL_1"]),
        ({"id2label": NAMED, "num_labels": 2}, ["neg", "pos"]),
    ],
)
def test_names_are_in_the_order_of_the_outputs(values, expected):
    assert label_names(values, HERE) == expected


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"id2label": {"1": "neg", "2": "pos"}, "label2id": {"neg": 1, "pos": 2}}, "id2label has the ids 1, 2; the model"),
        ({"label2id": {"neg": 1, "pos": 2}}, "label2id has the ids 1, 2"),
        ({"id2label": {"0": "neg", "2": "pos"}}, "has the ids 0, 2"),
        ({"id2label": NAMED, "label2id": {"pos": 0, "neg": 1}}, "says 0 neg, 1 pos, and label2id says 0 pos, 1 neg"),
        ({"id2label": NAMED, "label2id": {"bad": 0, "good": 1}}, "label2id says 0 bad, 1 good"),
        ({"id2label": NAMED, "label2id": {"neg": 0}}, "label2id says 0 neg"),
        ({"id2label": {"0": "pos", "1": "pos"}}, "calls two outputs 'pos'"),
        ({"label2id": {"neg": 0, "negative": 0}}, "gives id 0 to 'neg' and to 'negative'"),
        ({"id2label": {"neg": 0, "pos": 1}}, "'neg' is no id"),
        ({"label2id": {"neg": True, "pos": None}}, "True is no id"),
        ({"label2id": {"neg": -1, "pos": 0}}, "-1 is no id"),
        ({"id2label": "neg, pos"}, "id2label is no map"),
        ({"id2label": ["neg", "pos"]}, "id2label is no map"),
        ({"id2label": {"0": None, "1": "pos"}}, "calls output 0 None, which is no name"),
        ({"id2label": {"0": "a\nb", "1": "pos"}}, "'a\\nb' with a line break"),
        ({"id2label": {"0": "\ud800", "1": "pos"}}, "half a letter"),
        ({"num_labels": "3"}, "num_labels is '3', which is no number"),
        ({"num_labels": 0}, "num_labels is 0"),
        ({"label2id": ["neg", "pos"]}, "label2id is no map"),
        ({"id2label": NAMED, "num_labels": 3}, "num_labels is 3, and there are 2 labels"),
    ],
)
def test_maps_that_cannot_be_meant_are_told(values, told):
    with pytest.raises(InputError) as caught:
        label_names(values, HERE)
    assert told in str(caught.value)
    assert str(HERE) in str(caught.value)
    assert "\n" not in str(caught.value)
