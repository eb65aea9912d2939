import json

import numpy as np
import pytest
import torch
from tiny import TOPICS, loaded_task, write_jsonl

from prune2deploy.config import WorkloadPoint
from prune2deploy.errors import InputError
from prune2deploy.tasks.classification import NO_LABEL
from prune2deploy.tasks.registry import task_named
from prune2deploy.tasks.text_classification import TextClassification

PAIR = {"text": "sentence1", "text_pair": "sentence2", "label": "label"}


@pytest.fixture
def make_task(bert_dir, text_data, make_project, tmp_path):
    def make(data=None, model=bert_dir, **changes):
        return loaded_task(
            make_project(model, data or text_data, "text-classification", tmp_path, **changes)
        )[1]

    return make


def refusal(function, *args, **kwargs):
    with pytest.raises(InputError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("features", "given", "expected"),
    [
        (["text", "label"], {}, {"text": "text", "label": "label"}),
        (["idx", "sentence", "labels"], {}, {"text": "sentence", "label": "labels"}),
        (["Text", "Label"], {}, {"text": "Text", "label": "Label"}),
        (["text", "Text", "LABEL"], {}, {"text": "text", "label": "LABEL"}),
        (["Premise", "Hypothesis", "label"], {}, {"text": "Premise", "text_pair": "Hypothesis", "label": "label"}),
        (
            ["premise", "hypothesis", "label"],
            {},
            {"text": "premise", "text_pair": "hypothesis", "label": "label"},
        ),
        (["text", "text_pair", "label"], {}, {"text": "text", "text_pair": "text_pair", "label": "label"}),
        (
            ["question", "sentence", "label"],
            {},
            {"text": "question", "text_pair": "sentence", "label": "label"},
        ),
        (["body", "topic"], {"text": "body", "label": "topic"}, {"text": "body", "label": "topic"}),
        (["sentence1", "sentence2", "label"], {"text": "sentence2"}, {"text": "sentence2", "label": "label"}),
        (["text"], {"label": NO_LABEL}, {"text": "text", "label": NO_LABEL}),
    ],
)
def test_columns_are_guessed(features, given, expected):
    assert TextClassification.guess_columns(dict.fromkeys(features), given, "data") == expected


def test_columns_that_cannot_be_guessed_say_which_option_names_them():
    guess = TextClassification.guess_columns
    assert "--text; it has: body, label" in refusal(guess, {"body": 0, "label": 0}, {}, "data")
    message = refusal(guess, {"text": 0, "topic": 0}, {}, "data")
    assert "--label" in message
    assert "--unlabelled" in message


def test_samples_are_the_tokens_of_the_texts(make_task, text_data):
    task = make_task()
    samples = task.evaluation()
    rows = [json.loads(line) for line in (text_data / "validation.jsonl").read_text(encoding="utf-8").splitlines()]
    batch = samples.batch([3, 0])
    for row, index in enumerate([3, 0]):
        ids = batch.inputs["input_ids"][row][batch.valid[row]]
        assert task.tokenizer.decode(ids) == f"[CLS] {rows[index]['text']} [SEP]"
        assert batch.labels[row] == TOPICS.index(rows[index]["label"])
    padding = batch.inputs["input_ids"][~batch.valid]
    assert (padding == task.tokenizer.pad_token_id).all()
    assert set(batch.inputs) == {"input_ids", "attention_mask"}
    assert batch.inputs["input_ids"].shape[1] == max(samples.lengths[3], samples.lengths[0])


def test_batches_go_through_every_sample_once(make_task):
    samples = make_task().evaluation()
    seen = [index for indices, _ in samples.batches(5) for index in indices]
    assert sorted(seen) == list(range(24))
    lengths = [samples.lengths[index] for index in seen]
    assert lengths == sorted(lengths), "similar lengths together, so that little is padded"


def test_pairs_are_told_apart_by_token_types(make_task, pair_data):
    task = make_task(pair_data, data_columns=PAIR)
    batch = task.evaluation().batch([0, 1])
    for row in range(2):
        ids = batch.inputs["input_ids"][row][batch.valid[row]]
        types = batch.inputs["token_type_ids"][row][batch.valid[row]]
        first_end = list(ids).index(task.tokenizer.sep_token_id)
        assert not types[: first_end + 1].any()
        assert types[first_end + 1 :].all()
    assert list(task.dynamic_axes()) == ["input_ids", "attention_mask", "token_type_ids"]


def test_calibration_draws_without_repetition_and_by_seed(make_task):
    task = make_task()
    drawn = task.calibration(10, seed=0)
    again, other = task.calibration(10, seed=0), task.calibration(10, seed=1)
    assert len(drawn) == 10
    assert drawn.encoded["input_ids"] == again.encoded["input_ids"]
    assert np.array_equal(drawn.labels, again.labels)
    assert drawn.encoded["input_ids"] != other.encoded["input_ids"]
    everything = task.calibration(1000, seed=0)
    assert len(everything) == 40
    rows = [tuple(ids) for ids in everything.encoded["input_ids"]]
    assert all(
        rows.count(tuple(ids)) >= drawn.encoded["input_ids"].count(ids) for ids in drawn.encoded["input_ids"]
    )


def test_every_token_is_as_likely_to_be_calibrated_on(make_task, tmp_path):
    rows = [{"text": "king " * words, "label": 0} for words in [1] * 200 + [9] * 200]
    for split in ("train", "validation"):
        write_jsonl(tmp_path / f"{split}.jsonl", rows)
    samples = make_task(data=tmp_path).calibration(40, seed=0)
    long = sum(samples.tokens(index) > 5 for index in range(len(samples)))
    assert 30 <= long < 40  # 36 expected


def test_data_without_labels(make_task):
    task = make_task(data_columns={"text": "text", "label": NO_LABEL})
    samples = task.evaluation()
    assert samples.labels is None
    assert samples.batch([0]).labels is None


def test_selected_samples_are_those_of_the_whole(make_task):
    samples = make_task().evaluation()
    chosen = samples.select([4, 1, 1]).batch([0, 1, 2])
    expected = samples.batch([4, 1, 1])
    assert np.array_equal(chosen.inputs["input_ids"], expected.inputs["input_ids"])
    assert np.array_equal(chosen.labels, expected.labels)


def test_digest_tells_samples_apart(make_task):
    samples = make_task().evaluation()
    assert make_task().evaluation().digest() == samples.digest()
    relabelled = samples.select(list(range(len(samples))))
    assert relabelled.digest() == samples.digest()
    relabelled.labels = (relabelled.labels + 1) % 3
    others = [relabelled, samples.select([0, 1]), samples.select([1, 0]), samples.select([0])]
    assert len({samples.digest(), *(other.digest() for other in others)}) == 5


def test_missing_label_column_is_named(make_task):
    message = refusal(make_task(data_columns={"text": "text", "label": "topic"}).evaluation)
    assert "'topic'" in message
    assert "text, label" in message


def test_text_that_is_no_string_names_its_row(make_task, tmp_path):
    write_jsonl(tmp_path / "data.jsonl", [{"text": "fine", "label": 0}, {"text": None, "label": 1}])
    task = make_task(tmp_path / "data.jsonl", data_evaluation="train")
    assert "data.jsonl, line 2 (split 'train'): the text is missing" in refusal(task.evaluation)


def test_longer_texts_are_cut_to_max_length(make_task):
    assert max(make_task().evaluation().lengths) > 6
    assert max(make_task(data_max_length=6).evaluation().lengths) == 6
    assert "at most 32 tokens" in refusal(make_task, data_max_length=33)


def settings(directory, **values):
    file = directory / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **values}), encoding="utf-8")
    return directory


LIMITS = [(9, None, 9), (9, 12, 12), (512, None, 32), (1e30, None, 32), (512, 8, 8), (float("inf"), None, 32)]


@pytest.mark.parametrize(("own", "asked", "limit"), LIMITS)
def test_texts_are_cut_where_the_tokenizer_says_unless_the_project_does(make_task, dense_copy, own, asked, limit):
    task = make_task(model=settings(dense_copy, model_max_length=own), **({"data_max_length": asked} if asked else {}))
    assert task.limit == limit
    assert max(task.evaluation().lengths) == min(limit, max(make_task().evaluation().lengths))


def test_segments_are_sent_only_where_the_tokenizer_gives_them(make_task, dense_copy, pair_data):
    assert make_task(pair_data, data_columns=PAIR).input_names[-1] == "token_type_ids"
    settings(dense_copy, model_input_names=["input_ids", "attention_mask"])
    task = make_task(pair_data, model=dense_copy, data_columns=PAIR)
    assert task.input_names == ("input_ids", "attention_mask")
    assert set(task.evaluation().batch([0, 1]).inputs) == {"input_ids", "attention_mask"}


def test_segment_that_the_model_has_no_embedding_for(make_task, pair_data):
    task = make_task(pair_data, data_columns=PAIR)
    task.config.type_vocab_size = 1
    message = refusal(task.evaluation)
    assert "segment 1 (token_type_ids), and type_vocab_size is 1" in message
    assert "model_input_names" in message


def test_pair_without_a_second_text_is_a_single_text(make_task, tmp_path):
    rows = [{"sentence1": "the king", "sentence2": second, "label": 0} for second in ("won", "", "lost")]
    write_jsonl(tmp_path / "data.jsonl", rows)
    task = make_task(tmp_path / "data.jsonl", data_columns=PAIR, data_evaluation="train")
    samples = task.evaluation()
    for index, row in enumerate(rows):  # one call a pair, as transformers' pipeline does
        assert samples.encoded["input_ids"][index] == task.tokenizer(row["sentence1"], row["sentence2"])["input_ids"]


@pytest.mark.parametrize("said", ["64", 0, -1, 2, True, 9.5, float("nan"), [16]])
def test_length_that_none_can_be_is_told_by_name(make_task, dense_copy, said):
    settings(dense_copy, model_max_length=said)
    assert "model_max_length" in refusal(make_task(model=dense_copy).evaluation)


def test_length_of_the_project_must_hold_what_the_tokenizer_adds(make_task):
    assert "the tokenizer puts 2 tokens around texts" in refusal(make_task(data_max_length=2).evaluation)


def edit(directory, change):
    file = directory / "tokenizer.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    change(values)
    file.write_text(json.dumps(values), encoding="utf-8")


def test_tokens_around_texts_must_be_the_models(make_task, dense_copy):
    edit(dense_copy, lambda values: values["post_processor"]["special_tokens"]["[CLS]"].update(ids=[7000]))
    assert "puts id 7000 around texts" in refusal(make_task(model=dense_copy).evaluation)


def test_tokenizer_whose_parser_panics(make_task, dense_copy):
    edit(dense_copy, lambda values: values["post_processor"].update(special_tokens={}))
    assert "no usable tokenizer: " in refusal(make_task(model=dense_copy).evaluation)


def test_tokenizer_that_draws_lots(make_task, dense_copy):
    def change(values):
        vocabulary = values["model"]["vocab"]
        values["model"] = {"type": "BPE", "vocab": vocabulary, "merges": [], "dropout": 0.001, "unk_token": "[UNK]",
                           "continuing_subword_prefix": "##", "end_of_word_suffix": None, "fuse_unk": False,
                           "byte_fallback": False}  # fmt: skip

    edit(dense_copy, change)
    assert "drops merges by chance" in refusal(make_task(model=dense_copy).evaluation)


def test_pointer_in_place_of_a_tokenizer(make_task, dense_copy):
    (dense_copy / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n", encoding="utf-8")
    assert "git lfs pull" in refusal(make_task(model=dense_copy).evaluation)


def test_token_without_an_embedding_is_refused_whether_texts_have_it_or_not(make_task, dense_copy):
    tokenizer = make_task().tokenizer
    tokenizer.add_tokens(["[USER]"])
    tokenizer.save_pretrained(dense_copy)
    message = refusal(make_task(model=dense_copy).evaluation)
    assert "such as '[USER]' (id " in message
    assert "resize the model's embeddings" in message


def test_tokenizer_of_another_model_is_noticed(make_task, dense_copy):
    task = make_task(model=dense_copy)
    task.config.vocab_size = 10
    assert "the tokenizer is not this model's" in refusal(task.evaluation)


def test_model_without_a_tokenizer(make_task, dense_copy):
    for path in dense_copy.glob("tokenizer*"):
        path.unlink()
    assert "no tokenizer here" in refusal(make_task(model=dense_copy).evaluation)


def test_damaged_tokenizer(make_task, dense_copy):
    (dense_copy / "tokenizer.json").write_text('{"version": ')
    assert "no usable tokenizer" in refusal(make_task(model=dense_copy).evaluation)


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (2, 8), (5, 32), (1, 100)])
def test_workload_inputs_are_full_rows_of_real_tokens(make_task, batch, length):
    task = make_task()
    samples = task.evaluation()
    inputs = task.workload_inputs(samples, WorkloadPoint(batch=batch, seq_len=length))
    assert {name: array.shape for name, array in inputs.items()} == dict.fromkeys(
        task.input_names, (batch, length)
    )
    assert {array.dtype for array in inputs.values()} == {np.dtype(np.int64)}
    assert inputs["attention_mask"].all()
    row = list(inputs["input_ids"][0])
    first = samples.encoded["input_ids"][0]
    assert row[: len(first)] == first[:length]
    known = {token for ids in samples.encoded["input_ids"] for token in ids}
    assert set(np.unique(inputs["input_ids"]).tolist()) <= known


def test_workload_shapes_are_checked_against_the_model(make_task):
    assert "at most 32 tokens" in refusal(make_task, workload=[{"batch": 1, "seq_len": 33}])
    assert "needs a sequence length" in refusal(make_task, workload=[{"batch": 1}])


def test_synthetic_inputs_run_and_have_padding(make_task):
    task = make_task()
    inputs = task.synthetic_inputs(3, 9)
    assert {array.shape for array in inputs.values()} == {(3, 9)}
    assert 0 <= inputs["input_ids"].min() <= inputs["input_ids"].max() < task.config.vocab_size
    assert 0 < inputs["attention_mask"].mean() < 1


@pytest.mark.parametrize("batch", [1, 3])
def test_timing_inputs_differ_from_those_of_a_trace_in_padding_alone(make_task, batch):
    task = make_task()
    timed, traced = task.timing_inputs(batch, 9), task.synthetic_inputs(batch, 9)
    assert (timed["attention_mask"] == 1).all()
    assert [name for name in timed if not np.array_equal(timed[name], traced[name])] == ["attention_mask"]
    assert {name: (array.shape, array.dtype) for name, array in timed.items()} == {
        name: (array.shape, array.dtype) for name, array in traced.items()
    }


def test_score_is_accuracy_with_its_standard_error(make_task):
    metric = make_task().metric(None)
    metric.update({"logits": np.eye(3)[[0, 1, 2, 2, 1]]}, np.array([0, 1, 2, 0, 0]))
    score = metric.score()
    assert (score.metric, score.n) == ("accuracy", 5)
    assert score.value == pytest.approx(60)
    share = (3 + 1) / (5 + 2)  # one sample more that is right and one that is wrong
    assert score.standard_error == pytest.approx(100 * (share * (1 - share) / 7) ** 0.5)


def test_losses_are_the_cross_entropy_of_each_sample(make_task):
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    task = make_task()
    losses = task.objective.losses({"logits": logits}, task.targets(np.array([2, 0])))
    expected = [np.log(sum(np.exp([1, 2, 3]))) - 3, np.log(3)]
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


def test_sampled_labels_follow_the_prediction_and_the_seed(make_task):
    objective = make_task().objective
    logits = torch.tensor([0.7, 0.2, 0.1]).log().expand(4000, 3)

    def drawn(seed):
        return objective.sampled_labels({"logits": logits}, torch.Generator().manual_seed(seed))["logits"]

    labels = drawn(0)
    assert labels.shape == (4000,)
    shares = torch.bincount(labels, minlength=3) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.7, 0.2, 0.1]), atol=0.04, rtol=0)
    assert torch.equal(labels, drawn(0))
    assert not torch.equal(labels, drawn(1))


def test_label_names_are_in_the_order_of_the_outputs(make_task):
    assert make_task().label_names() == list(TOPICS)


def test_task_must_fit_the_model(vit_dir, text_data, make_project, tmp_path):
    project = make_project(vit_dir, text_data, "text-classification", tmp_path)
    assert "ViTForImageClassification" in refusal(loaded_task, project)


def test_unknown_task_and_column_role_name_the_known_ones(make_task):
    assert "question-answering, semantic-segmentation, text-classification" in refusal(task_named, "translation")
    assert "text, text_pair, label" in refusal(make_task, data_columns={"image": "text"})
