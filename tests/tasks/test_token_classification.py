import random

import heads
import numpy as np
import pytest
import tiny

from prune2deploy.errors import InputError
from prune2deploy.tasks.base import LOGITS
from prune2deploy.tasks.entities import EntityF1, entities_of
from prune2deploy.tasks.objectives import IGNORED
from prune2deploy.tasks.token_classification import TokenClassification, at_tokens

WORDS = [["the", "old", "king"], ["won"], ["house", "of", "war", "unbelievable", "song"]]
TAGS = [["O", "B-PER", "I-PER"], ["O"], ["B-LOC", "I-LOC", "I-LOC", "O", "B-PER"]]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return heads.save_model("token-classification", tmp_path_factory.mktemp("tags"))


@pytest.fixture
def of(model_dir, tmp_path):
    def make(words, tags, **changes):
        (tmp_path / "data").mkdir(exist_ok=True)
        rows = [{"tokens": mine, "ner_tags": labels} for mine, labels in zip(words, tags, strict=True)]
        for split in ("train", "validation"):
            tiny.write_jsonl(tmp_path / "data" / f"{split}.jsonl", rows)
        columns = {"text": "tokens", "label": "ner_tags"} | changes.pop("columns", {})
        project = tiny.make_project(
            model_dir, tmp_path / "data", "token-classification", tmp_path, data_columns=columns,
            workload=[{"batch": 2, "seq_len": 8}], **changes,
        )  # fmt: skip
        return tiny.loaded_task(project)[1]

    return make


def refusal(action, *args):
    with pytest.raises(InputError) as caught:
        action(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_label_counts_at_the_first_token_of_its_word(of):
    task = of(WORDS, TAGS)
    assert isinstance(task, TokenClassification)
    samples = task.evaluation()
    for words, tags, ids, labels in zip(WORDS, TAGS, samples.encoded["input_ids"], samples.labels, strict=True):
        tokens = task.tokenizer.convert_ids_to_tokens(ids)
        assert len(labels) == len(tokens)
        firsts = [place for place, token in enumerate(tokens) if token not in ("[CLS]", "[SEP]") and token[:2] != "##"]
        assert [heads.TAGS[labels[place]] for place in firsts] == tags
        assert all(labels[place] == IGNORED for place in range(len(tokens)) if place not in firsts)
        assert len(firsts) == len(words)


def test_numbers_and_other_letters_are_labels_too(of):
    wanted = [labels.tolist() for labels in of(WORDS, TAGS).evaluation().labels]
    numbers = [[heads.TAGS.index(tag) for tag in row] for row in TAGS]
    lower = [[tag.lower() for tag in row] for row in TAGS]
    for tags in (numbers, lower):
        assert [labels.tolist() for labels in of(WORDS, tags).evaluation().labels] == wanted


def test_words_without_a_label_do_not_count(of):
    tags = [[IGNORED, 1, 2], [0], [3, 4, IGNORED, 0, 1]]
    labels = of(WORDS, tags).evaluation().labels
    assert [(each != IGNORED).sum() for each in labels] == [2, 1, 4]


def test_what_is_cut_off_has_no_label(of):
    task = of([["won"] * 60, ["lost"]], [["B-PER"] * 60, ["O"]])
    long, short = task.evaluation().labels
    assert len(long) == 32
    assert (long != IGNORED).sum() == 30
    assert (short != IGNORED).sum() == 1


@pytest.mark.parametrize(
    ("words", "tags", "told"),
    [
        (WORDS, [*TAGS[:1], ["O", "O"], TAGS[2]], "line 2 (split 'validation'): 2 labels for 1 words"),
        (WORDS, [TAGS[0], ["B-SHIP"], TAGS[2]], "label 'B-SHIP' is not one of the model's 5 classes"),
        (["the old king", "won", "house"], [["O"], ["O"], ["O"]], "the words are a str; give a list of strings"),
        ([["a", None]] * 3, [["O", "O"]] * 3, "the words are a list with something else"),
    ],
)
def test_what_does_not_fit_is_told_with_its_line(of, words, tags, told):
    message = refusal(of(words, tags).evaluation)
    assert told in message
    assert "jsonl, line" in message


def test_without_labels_the_dense_model_is_the_measure(of):
    assert of(WORDS, TAGS, columns={"label": ""}).evaluation().labels is None


def by_hand(tags):
    """Entities of B- and I- labels, as read from left to right."""
    found, open_at, kind = set(), None, None
    for place, tag in enumerate([*tags, "O"]):
        mark, of = (tag[0], tag[2:]) if tag != "O" else ("O", None)
        if open_at is not None and (mark != "I" or of != kind):
            found.add((kind, open_at, place - 1))
            open_at = None
        if mark == "B" or (mark == "I" and open_at is None):
            open_at, kind = place, of
    return found


@pytest.mark.parametrize("seed", range(20))
def test_entities_are_those_read_from_left_to_right(seed):
    tags = random.Random(seed).choices(["O", "B-A", "I-A", "B-B", "I-B"], k=30)
    assert entities_of(tags) == by_hand(tags)


@pytest.mark.parametrize(
    ("tags", "entities"),
    [
        (["S-A", "E-A", "B-A", "E-A", "E-A"], {("A", 0, 0), ("A", 1, 1), ("A", 2, 3), ("A", 4, 4)}),
        (["B-A", "I-A", "E-A", "S-B"], {("A", 0, 2), ("B", 3, 3)}),
        (["NOUN", "NOUN", "VERB"], {("NOUN", 0, 1), ("VERB", 2, 2)}),
        (["O", "O"], set()), ([], set()), (["B-X-Y", "I-X-Y"], {("X-Y", 0, 1)}),
    ],
)  # fmt: skip
def test_other_schemes_have_entities_too(tags, entities):
    """As seqeval 1.2.2 counts them (checked there by hand)."""
    assert entities_of(tags) == entities


def test_f1_is_of_all_entities_at_once():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 9, 5)), rng.integers(0, 5, (6, 9))
    labels[:, 0] = IGNORED
    counted = np.arange(9) < rng.integers(4, 10, 6)[:, None]
    metric = EntityF1(LOGITS, heads.TAGS)
    for part in (slice(0, 2), slice(2, 6)):
        metric.update({LOGITS: logits[part]}, labels[part], counted[part])
    given, there, hits = 0, 0, 0
    for row in range(6):
        places = np.flatnonzero(counted[row] & (labels[row] != IGNORED))
        said, right = ([heads.TAGS[each] for each in values[row, places]] for values in (logits.argmax(-1), labels))
        said, right = by_hand(said), by_hand(right)
        given, there, hits = given + len(said), there + len(right), hits + len(said & right)
    assert metric.score().value == pytest.approx(100 * 2 * hits / (given + there))
    assert metric.score().standard_error > 0


def test_labels_that_are_no_entities_are_scored_one_by_one(of, model_dir):
    task = of(WORDS, TAGS)
    samples = task.evaluation()
    assert task.metric(samples).name == "entity F1"
    task.config.id2label = dict(enumerate(["NOUN", "VERB", "ADJ", "DET", "X"]))
    assert task.metric(samples).name == "accuracy"


@pytest.mark.parametrize(
    ("offsets", "found"),
    [
        ([(0, 0), (0, 3), (4, 7), (7, 8), (0, 0)], [IGNORED, 1, 2, IGNORED, IGNORED]),
        ([(0, 3), (3, 7), (7, 8)], [1, 2, IGNORED]),  # a token has the space before its word in it
        ([(0, 3), (3, 4), (4, 8)], [1, IGNORED, 2]),  # the space is a token
        ([(0, 1), (1, 2), (2, 3), (4, 8)], [1, IGNORED, IGNORED, 2]),
    ],
)
def test_tokens_of_any_tokenizer_find_their_word(offsets, found):
    assert at_tokens(["the", "king"], offsets, [1, 2]) == found
