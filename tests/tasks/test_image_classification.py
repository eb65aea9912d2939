import shutil

import numpy as np
import pytest
from PIL import Image
from tiny import TOPICS, loaded_task

from prune2deploy.config import WorkloadPoint
from prune2deploy.errors import InputError
from prune2deploy.tasks.classification import NO_LABEL
from prune2deploy.tasks.image_classification import ImageClassification


@pytest.fixture
def make_task(vit_dir, image_data, make_project, tmp_path):
    def make(data=None, model=vit_dir, **changes):
        return loaded_task(
            make_project(model, data or image_data, "image-classification", tmp_path, **changes)
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
        (["image", "label"], {}, {"image": "image", "label": "label"}),
        (["img", "labels"], {}, {"image": "img", "label": "labels"}),
        (["photo", "kind"], {"image": "photo", "label": "kind"}, {"image": "photo", "label": "kind"}),
        (["image"], {"label": NO_LABEL}, {"image": "image", "label": NO_LABEL}),
    ],
)
def test_columns_are_guessed(features, given, expected):
    assert ImageClassification.guess_columns(dict.fromkeys(features), given, "data") == expected


def test_column_that_cannot_be_guessed_says_which_option_names_it():
    assert "--image; it has: photo" in refusal(ImageClassification.guess_columns, {"photo": 0}, {}, "data")


def test_samples_are_the_preprocessed_pixels(make_task, image_data):
    samples = make_task().evaluation()
    batch = samples.batch([5, 2])
    assert batch.valid is None
    assert list(batch.labels) == [5 % 3, 2 % 3]
    assert batch.inputs["pixel_values"].dtype == np.float32
    for row, index in enumerate([5, 2]):
        with Image.open(image_data / "validation" / f"{index:02}.png") as image:
            pixels = np.asarray(
                image.convert("RGB").resize((16, 16), Image.Resampling.BILINEAR), dtype=np.float32
            )
        expected = (pixels / 255 - 0.5) / 0.5
        np.testing.assert_allclose(batch.inputs["pixel_values"][row], expected.transpose(2, 0, 1), atol=1e-5)


def test_grey_images_get_three_channels(make_task, image_data, tmp_path):
    data = shutil.copytree(image_data, tmp_path / "grey")
    for path in data.rglob("*.png"):
        with Image.open(path) as image:
            image.convert("L").save(path)
    pixels = make_task(data).evaluation().batch([0]).inputs["pixel_values"][0]
    assert pixels.shape == (3, 16, 16)
    assert np.array_equal(pixels[0], pixels[2])


def test_image_that_cannot_be_decoded_names_its_row(make_task, image_data, tmp_path):
    data = shutil.copytree(image_data, tmp_path / "damaged")
    content = (data / "validation" / "03.png").read_bytes()
    (data / "validation" / "03.png").write_bytes(content[: len(content) // 2])
    samples = make_task(data).evaluation()
    assert samples.batch([2]).labels is not None
    assert "validation/03.png (split 'validation'): not a readable image" in refusal(samples.batch, [3])


@pytest.mark.parametrize("batch", [1, 5, 30])
def test_workload_inputs_are_real_images(make_task, batch):
    task = make_task()
    samples = task.evaluation()
    inputs = task.workload_inputs(samples, WorkloadPoint(batch=batch))
    assert inputs["pixel_values"].shape == (batch, 3, 16, 16)
    expected = samples.batch([(batch - 1) % 12]).inputs["pixel_values"][0]
    assert np.array_equal(inputs["pixel_values"][-1], expected)


def test_synthetic_inputs_have_the_shape_of_the_model(make_task):
    pixels = make_task().synthetic_inputs(3, None)["pixel_values"]
    assert (pixels.shape, pixels.dtype) == ((3, 3, 16, 16), np.float32)
    assert pixels.std() > 0.1


def test_images_take_no_sequence_length(make_task):
    assert "leave --seq-len out" in refusal(make_task, workload=[{"batch": 1, "seq_len": 16}])


def test_model_without_a_processor(make_task, vit_dir, tmp_path):
    model = shutil.copytree(vit_dir, tmp_path / "model")
    (model / "preprocessor_config.json").unlink()
    assert "no preprocessor_config.json" in refusal(make_task(model=model).evaluation)


@pytest.mark.parametrize("text", ["", "{", '{"image_processor_type": "NoSuchProcessor"}'])
def test_damaged_processor(make_task, vit_dir, tmp_path, text):
    model = shutil.copytree(vit_dir, tmp_path / "model")
    (model / "preprocessor_config.json").write_text(text)
    assert "preprocessor_config.json" in refusal(make_task(model=model).evaluation)


def test_selected_samples_are_those_of_the_whole(make_task):
    samples = make_task().evaluation()
    chosen = samples.select([4, 1, 1]).batch([0, 1, 2])
    expected = samples.batch([4, 1, 1])
    assert np.array_equal(chosen.inputs["pixel_values"], expected.inputs["pixel_values"])
    assert np.array_equal(chosen.labels, expected.labels)


def test_digest_tells_samples_apart(make_task):
    samples = make_task().evaluation()
    assert make_task().evaluation().digest() == samples.digest()
    relabelled = samples.select(list(range(len(samples))))
    assert relabelled.digest() == samples.digest()
    relabelled.labels = (relabelled.labels + 1) % 3
    others = [relabelled, samples.select([0, 1]), samples.select([1, 0]), samples.select([0])]
    assert len({samples.digest(), *(other.digest() for other in others)}) == 5


def test_missing_column_is_named(make_task):
    assert "'photo'" in refusal(make_task(data_columns={"image": "photo", "label": "label"}).evaluation)


def test_calibration_is_drawn_by_seed(make_task):
    task = make_task()
    drawn, again, other = (task.calibration(6, seed).batch(list(range(6))) for seed in (0, 0, 1))
    assert np.array_equal(drawn.inputs["pixel_values"], again.inputs["pixel_values"])
    assert not np.array_equal(drawn.inputs["pixel_values"], other.inputs["pixel_values"])


def test_score_counts_the_likeliest_class(make_task):
    task = make_task()
    labels = task.evaluation().labels
    assert list(labels) == [index % len(TOPICS) for index in range(12)]
    right = np.eye(3)[labels] - 5
    for wanted, points in ((labels, 100), ((labels + 1) % 3, 0)):
        metric = task.metric(None)
        metric.update({"logits": right}, wanted)
        assert metric.score().value == points
