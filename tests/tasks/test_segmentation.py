
import numpy as np
import pytest
import structures
import tiny
import torch
from PIL import Image
from sklearn.metrics import jaccard_score
from steady import answer, cli, install
from transformers import SegformerForSemanticSegmentation

from prune2deploy.errors import InputError
from prune2deploy.tasks.mean_iou import MeanIou
from prune2deploy.tasks.objectives import IGNORED
from prune2deploy.tasks.predict import labels_of, metric_of, score_of, torch_run
from prune2deploy.tasks.segmentation import Segmentation

SIZE = structures.IMAGE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny SegFormer, and images whose maps are what it says itself, but for a part of each."""
    root = tmp_path_factory.mktemp("segments")
    model = structures.model_of("segformer", "SegformerForSemanticSegmentation")
    model.save_pretrained(root / "model")
    tiny.save_processor(root / "model", SIZE)
    model = SegformerForSemanticSegmentation.from_pretrained(root / "model").eval()
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("validation", 8)):
        (root / "data" / split).mkdir(parents=True)
        rows = []
        for index in range(count):
            pixels = rng.integers(0, 256, size=(SIZE, SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "data" / split / f"{index}.png")
            scaled = torch.tensor((pixels / 255 - 0.5) / 0.5, dtype=torch.float32).permute(2, 0, 1)[None]
            with torch.no_grad():
                logits = torch.nn.functional.interpolate(model(scaled).logits, size=(SIZE, SIZE), mode="bilinear")
            classes = logits.argmax(1)[0].numpy().astype(np.uint8)
            classes[:4], classes[4:8] = 255, rng.integers(0, 3, (4, SIZE))
            Image.fromarray(classes).save(root / "data" / split / f"{index}-map.png")
            rows.append({"image": f"{split}/{index}.png", "label": f"{split}/{index}-map.png"})
        tiny.write_jsonl(root / "data" / f"{split}.jsonl", rows)
    return root


@pytest.fixture
def case(folder, tmp_path):
    project = tiny.make_project(
        folder / "model", folder / "data", "semantic-segmentation", tmp_path,
        data_columns={"image": "image", "label": "label"}, workload=[{"batch": 2}],
    )  # fmt: skip
    return tiny.loaded_task(project)


def test_maps_are_read_as_they_are(case, folder):
    model, task = case
    assert isinstance(task, Segmentation)
    samples = task.evaluation()
    assert samples.labels.shape == (8, SIZE, SIZE)
    stored = np.asarray(Image.open(folder / "data" / "validation" / "2-map.png")).astype(int)
    np.testing.assert_array_equal(samples.labels[2], np.where(stored == 255, IGNORED, stored))
    assert (samples.labels[:, :4] == IGNORED).all()
    assert len(samples.select([3, 1])) == 2
    with torch.no_grad():
        said = task.said(model, samples.batch([0]).tensors())["logits"]
        logits = model(**samples.batch([0]).tensors()).logits
    assert said.shape == (1, samples.tokens(0), 3)
    torch.testing.assert_close(said[0].T.reshape(logits[0].shape), logits[0])


def test_the_score_is_that_of_maps_as_large_as_the_image(case):
    model, task = case
    samples = task.evaluation()
    said, right = [], []
    for index in range(len(samples)):
        with torch.no_grad():
            logits = model(**samples.batch([index]).tensors()).logits
        enlarged = torch.nn.functional.interpolate(logits, size=(SIZE, SIZE), mode="bilinear").argmax(1)[0].numpy()
        there = samples.labels[index] != IGNORED
        said.append(enlarged[there])
        right.append(samples.labels[index][there])
    wanted = jaccard_score(np.concatenate(right), np.concatenate(said), average="macro")
    score = metric_of(torch_run(model, task), task, samples, samples.labels).score()
    assert score.value == pytest.approx(100 * wanted)
    assert score.standard_error > 0
    assert metric_of(task.constant(samples.labels), task, samples, samples.labels).score().value < score.value


def test_without_maps_the_dense_model_is_the_measure(case):
    model, task = case
    samples = task.evaluation()
    samples.labels = None
    run = torch_run(model, task)
    assert score_of(metric_of(run, task, samples, labels_of(run, task, samples)), samples).value == 100


def test_classes_that_are_nowhere_say_nothing():
    metric = MeanIou("logits", 4, (2, 2))
    logits = np.zeros((1, 4, 4))
    logits[0, :, 1] = 1
    metric.update({"logits": logits}, np.array([[1, 1, 0, IGNORED]]))
    assert metric.score().value == pytest.approx(100 * (2 / 3 + 0) / 2)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.write_bytes(b"no image"), "not a readable map of classes"),
        (lambda path: Image.new("RGB", (SIZE, SIZE)).save(path), "the map of classes is an image of RGB"),
        (lambda path: Image.new("L", (SIZE, SIZE), 7).save(path), "the map has class 7, and the model knows 3"),
    ],
)
def test_what_is_no_map_is_told_with_its_line(folder, tmp_path, damage, told):
    import shutil

    data = shutil.copytree(folder / "data", tmp_path / "data")
    damage(data / "validation" / "1-map.png")
    project = tiny.make_project(
        folder / "model", data, "semantic-segmentation", tmp_path, data_columns={"image": "image", "label": "label"},
        workload=[{"batch": 2}],
    )  # fmt: skip
    with pytest.raises(InputError) as caught:
        tiny.loaded_task(project)[1].evaluation()
    assert told in str(caught.value)
    assert "validation.jsonl, line 2" in str(caught.value)


@pytest.mark.slow
def test_the_whole_way(folder, tmp_path, monkeypatch):
    install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    begun = answer(cli("init", folder / "model", "--data", folder / "data", "--batch", 2, "--threads", 1, "--samples", 12,
                       "--json"))  # fmt: skip
    assert begun["project"]["task"] == "semantic-segmentation"
    answer(cli("prune", "--flops", 0.6, "--json"))
    said = answer(cli("export", "--json"))
    assert (said["verdict"], said["metric_dense"]["metric"]) == ("passed", "mean IoU")
    assert answer(cli("validate", said["path"], "--json"))["passed"]
    labels = (tmp_path / said["path"] / "labels.txt").read_text(encoding="utf-8").split()
    assert labels == list(tiny.TOPICS)
