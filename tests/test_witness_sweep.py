"""Settings that people's models, tokenizers and image processors have, over each other: what is served after `init` is what
transformers' pipeline answers, or `init` refuses.
"""

import io
import json
import random
import shutil

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer, BertForSequenceClassification, pipeline

from prune2deploy.errors import InputError
from prune2deploy.initialise import init
from prune2deploy.models.checkpoint import load_dense
from prune2deploy.serving.served import image as served_image
from prune2deploy.serving.served import text as served_text
from prune2deploy.tasks.registry import task_of

COMBINATIONS = 60  # of each kind, besides every setting alone


def edited(path, change):
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")


def config(**values):
    return lambda directory: edited(directory / "config.json", lambda said: said.update(values))


def saved(**values):
    """Settings of tokenizer_config.json."""
    return lambda directory: edited(directory / "tokenizer_config.json", lambda said: said.update(values))


def without(name):
    return lambda directory: edited(directory / "tokenizer_config.json", lambda said: said.pop(name, None))


def backend(change):
    """A change of tokenizer.json."""

    def apply(directory):
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        change(tokenizer)
        tokenizer.save(str(directory / "tokenizer.json"))

    return apply


def typed(tokenizer):
    cls, sep = (tokenizer.token_to_id(each) for each in ("[CLS]", "[SEP]"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:1 $A:1 [SEP]:1", pair="[CLS]:1 $A:1 [SEP]:1 $B:0 [SEP]:0",
        special_tokens=[("[CLS]", cls), ("[SEP]", sep)],
    )  # fmt: skip


def preset(tokenizer):
    tokenizer.enable_truncation(10, stride=2)
    tokenizer.enable_padding(length=20, pad_id=0, pad_token="[PAD]")


def half(directory):
    model = BertForSequenceClassification.from_pretrained(directory)
    model.to(torch.bfloat16).save_pretrained(directory)


def sharded(directory):
    model = BertForSequenceClassification.from_pretrained(directory)
    (directory / "model.safetensors").unlink()
    model.save_pretrained(directory, max_shard_size="20KB")


def added(directory):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_tokens(["[USER]"])
    tokenizer.save_pretrained(directory)


def grown(directory):
    added(directory)
    weights = load_file(directory / "model.safetensors")
    name = "bert.embeddings.word_embeddings.weight"
    weights[name] = torch.cat([weights[name], weights[name][:1]])
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    config(vocab_size=len(weights[name]))(directory)


def slow(directory):
    """A tokenizer of Japanese that is there in python only."""
    vocabulary = Tokenizer.from_file(str(directory / "tokenizer.json")).get_vocab()
    (directory / "tokenizer.json").unlink()
    (directory / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)) + "\n", encoding="utf-8")
    values = {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "basic", "do_lower_case": False,
              "subword_tokenizer_type": "character", "model_max_length": 32}  # fmt: skip
    (directory / "tokenizer_config.json").write_text(json.dumps(values), encoding="utf-8")


# by name: what is done to a model directory, and, where `init` must refuse it, what the message says
MODELS = {
    "as it is": (lambda directory: None, None),
    "bf16": (half, None),
    "shards": (sharded, None),
    # its first token, which the head reads, sees no other
    "causal": (config(is_decoder=True, use_cache=True), "answers all samples alike"),
    "tuples in chunks": (config(return_dict=False, chunk_size_feed_forward=3), None),
    "all states": (config(output_hidden_states=True, output_attentions=True), None),
    "ids as strings": (config(label2id={"art": "0", "sport": "1", "war": "2"}), None),
    "nameless": (config(id2label=None, label2id=None, num_labels=3), None),
    "of a task": (config(task_specific_params={"text-classification": {"num_labels": 3}}), None),
    "relative positions": (config(position_embedding_type="relative_key"), "position_embedding_type"),
    "many labels": (config(problem_type="multi_label_classification"), None),
    "from 1": (config(id2label={"1": "art", "2": "sport", "3": "war"}, label2id={}), "count from 0 to 2"),
}
TOKENIZERS = {
    "as it is": (lambda directory: None, None),
    "no types": (saved(model_input_names=["input_ids", "attention_mask"]), None),
    "ids only": (saved(model_input_names=["input_ids"]), None),
    "types of its own": (backend(typed), None),
    "short": (saved(model_max_length=9), None),
    "no limit": (without("model_max_length"), None),
    "no limit, a number": (saved(model_max_length=1000000000000000019884624838656), None),
    "longer than the model": (saved(model_max_length=512), None),
    "cut at the left": (saved(truncation_side="left", model_max_length=11), None),
    "padded at the left": (saved(padding_side="left"), None),
    "own tokens split": (saved(split_special_tokens=True), None),
    "pads and cuts by itself": (backend(preset), None),
    "settings of calls": (saved(max_length=7, padding="max_length", truncation=True, stride=2, pad_to_multiple_of=8), None),
    "lower case": (saved(do_lower_case=False), None),
    "a class of its own": (saved(tokenizer_class="BertTokenizer", do_lower_case=False, strip_accents=False), None),
    "unknown class": (saved(tokenizer_class="NobodysTokenizer"), None),
    "other separator": (saved(sep_token="[MASK]"), None),
    "no padding token": (without("pad_token"), None),
    "token added": (added, "no embedding for, such as '[USER]'"),
    "token added and learnt": (grown, None),
    "slow": (slow, "needs a fast tokenizer"),
}
TEXTS = [
    "the king won", "Painted by THE Woman", "", " \n ", "the team lost the match " * 9, "[SEP] the [MASK] [PAD] song [CLS]",
    "ÀÉ Straße 日本 🎬", "hello [USER] and more", "a-b/c.d 12", "x" * 120, "the  \t king\r\n", "\u200bthe\u00a0king",
]  # fmt: skip


# the pipeline itself stumbles over other values of these
HARMLESS = {"return_dict": True, "output_hidden_states": False, "output_attentions": False, "chunk_size_feed_forward": 0}


def sweep(first, second):
    """Every setting alone, and some of their pairs, always the same."""
    alone = [(one, "as it is") for one in first] + [("as it is", other) for other in second if other != "as it is"]
    pairs = [(one, other) for one in first for other in second if "as it is" not in (one, other)]
    return alone + random.Random(0).sample(pairs, min(COMBINATIONS, len(pairs)))


def initialised(directory, data, root, **options):
    """The project; or, as text, why there is none."""
    root.mkdir()
    try:
        return init(str(directory), str(data), root, force=True, **options).project
    except InputError as error:
        refusal = str(error)
    assert "\n" not in refusal
    assert not list(root.iterdir())
    return refusal


def chain(project, directory, root, module):
    """Raw samples to labels, as the packaged files and the model do it."""
    model = load_dense(directory)
    task = task_of(project, directory, model.config)
    task.write_preprocessing(root, project.workload)
    preprocessor = module.Preprocessor(root)

    def answer(*raw):
        columns = dict(zip(preprocessor.columns, ([each] for each in raw), strict=True))
        inputs = {name: torch.from_numpy(array) for name, array in preprocessor(columns).items()}
        with torch.no_grad():
            return model(**inputs).logits[0].numpy()

    return answer, model.config


def expected(refusals):
    return next((each for each in refusals if each), None)


@pytest.fixture(scope="module")
def plain_data(tmp_path_factory):
    """Texts, and pairs of them, without labels."""
    found = {}
    for kind, columns in (("single", ["text"]), ("pair", ["text", "text_pair"])):
        found[kind] = tmp_path_factory.mktemp(kind) / "data.jsonl"
        rows = [dict(zip(columns, [f"{text} by the river", text], strict=False)) for text in TEXTS]
        tiny.write_jsonl(found[kind], rows)
    return found


@pytest.mark.parametrize("kind", ["single", "pair"])
@pytest.mark.parametrize(("model", "tokenizer"), sweep(MODELS, TOKENIZERS))
def test_texts(model, tokenizer, kind, bert_dir, plain_data, tmp_path):
    directory = shutil.copytree(bert_dir, tmp_path / "model")
    for change, _ in (MODELS[model], TOKENIZERS[tokenizer]):
        change(directory)
    settings = {"workload": [{"batch": 1, "seq_len": 8}]}
    project = initialised(directory, plain_data[kind], tmp_path / "root", columns={"label": ""}, settings=settings)
    if refusal := expected((MODELS[model][1], TOKENIZERS[tokenizer][1])):
        assert refusal in project
        return
    assert not isinstance(project, str), project
    answer, said = chain(project, directory, tmp_path, served_text)
    config(**HARMLESS)(directory)
    config(id2label=said.id2label, label2id=said.label2id)(directory)  # a name for each output, where there is none
    own = AutoTokenizer.from_pretrained(directory)
    classify = pipeline("text-classification", model=str(directory), dtype=torch.float32, device="cpu")
    limit = {"max_length": 32} if own.model_max_length > 32 else {}
    for number, text in enumerate(TEXTS):
        other = TEXTS[(number * 5 + 2) % len(TEXTS)]
        given = {"text": text, "text_pair": other} if kind == "pair" else text
        result = classify(given, top_k=None, function_to_apply="none", truncation=True, **limit)
        rows = {row["label"]: row["score"] for row in (result[0] if isinstance(result[0], list) else result)}
        wanted = [rows[said.id2label[index]] for index in range(3)]
        got = answer(*(each.encode() for each in (text, other)[: 2 if kind == "pair" else 1]))
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4, err_msg=repr(given))


def processor(**values):
    return lambda directory: edited(directory / "preprocessor_config.json", lambda said: said.update(values))


SHORT, SQUARE = {"shortest_edge": 18}, {"height": 16, "width": 16}
def of(name, **values):
    """A processor of another class."""
    return processor(image_processor_type=f"{name}ImageProcessor", **values)


def in_another_file(directory):
    file = directory / "preprocessor_config.json"
    said = {"image_processor": json.loads(file.read_text(encoding="utf-8"))}
    (directory / "processor_config.json").write_text(json.dumps(said), encoding="utf-8")
    file.unlink()


# of these, a server resizes, crops, rescales and normalises; what else one does is seen by its answers alone
OTHERWISE = "transformers' pipeline gives"
PROCESSORS = {
    "as it is": (lambda directory: None, None),
    "centre crop": (of("Bit", size=SHORT, do_center_crop=True, crop_size=SQUARE), None),
    "crop larger": (of("DeiT", size={"height": 9, "width": 12}, do_center_crop=True, crop_size=SQUARE), None),
    "crop larger one way": (of("DeiT", size={"height": 9, "width": 31}, do_center_crop=True, crop_size=SQUARE), None),
    "int size": (processor(size=16), None),
    "bicubic": (processor(resample=3), None),
    "lanczos": (processor(resample=1), None),
    "nearest": (processor(resample=0), None),
    "resample by name": (processor(resample="bicubic"), "Pillow's number"),
    "resample as a fraction": (processor(resample=2.0), None),
    "resample unsaid": (processor(resample=None), "`resample` must be specified"),
    "no normalising": (processor(do_normalize=False), None),
    "no rescaling": (processor(do_rescale=False, image_mean=[99, 100, 101], image_std=[50, 60, 70]), None),
    "one mean": (processor(image_mean=0.4, image_std=0.3), None),
    "to colour": (processor(do_convert_rgb=True), None),
    "other resolution": (processor(size={"height": 24, "width": 24}), "24 × 24"),
    "short edge alone": (of("Bit", size={"shortest_edge": 16}, do_center_crop=False), "16 × "),
    "no resizing": (processor(do_resize=False), "20 × 24"),
    "ConvNeXt": (of("ConvNext", size={"shortest_edge": 16}, crop_pct=0.9), OTHERWISE),
    "LeViT": (of("Levit", size={"shortest_edge": 16}, crop_size=SQUARE, do_center_crop=True), OTHERWISE),
    "EfficientNet": (of("EfficientNet", rescale_offset=True, rescale_factor=1 / 127.5), OTHERWISE),
    "padding": (processor(do_pad=True, pad_size={"height": 32, "width": 32}), "32 × 32"),
    "another file": (in_another_file, None),
    "unknown class": (of("Nobodys"), "preprocessor_config.json"),
    "too few means": (processor(image_mean=[0.5], image_std=[0.5]), "mean must have"),
}
VISION = {
    "as it is": (lambda directory: None, None),
    "tuples": (config(return_dict=False, chunk_size_feed_forward=2), None),
    "all states": (config(output_hidden_states=True, output_attentions=True), None),
    "size as a list": (config(image_size=[16, 16]), None),
    "grey": (config(num_channels=1), "num_channels is 1"),
    "another size": (config(image_size=32), "position_embeddings"),
}


def files():
    """Pictures in kinds of file, made here and not by the product."""
    rng = np.random.default_rng(3)
    picture = Image.fromarray(rng.integers(0, 256, size=(21, 30, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6

    def encoded(image, kind, **options):
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        return stream.getvalue()

    palette = picture.convert("P", palette=Image.Palette.ADAPTIVE)
    yield from (encoded(picture, "PNG"), encoded(picture, "JPEG", exif=exif))
    yield encoded(picture, "WEBP", exif=exif, lossless=True)
    yield from (encoded(palette, "PNG", transparency=3), encoded(palette, "GIF"), encoded(picture.convert("CMYK"), "JPEG"))
    yield encoded(Image.fromarray(rng.integers(0, 65536, size=(30, 19), dtype=np.uint16)), "PNG")
    yield encoded(Image.fromarray(rng.integers(0, 256, size=(9, 40, 4), dtype=np.uint8)), "PNG")
    yield encoded(picture.resize((1, 1)), "TIFF")


@pytest.mark.parametrize(("model", "process"), sweep(VISION, PROCESSORS))
def test_images(model, process, vit_dir, image_data, tmp_path):
    directory = shutil.copytree(vit_dir, tmp_path / "model")
    for change, _ in (VISION[model], PROCESSORS[process]):
        change(directory)
    project = initialised(directory, image_data, tmp_path / "root")
    if refusal := expected((VISION[model][1], PROCESSORS[process][1])):
        assert refusal in project
        return
    assert not isinstance(project, str), project
    answer, said = chain(project, directory, tmp_path, served_image)
    config(**HARMLESS)(directory)
    classify = pipeline("image-classification", model=str(directory), dtype=torch.float32, device="cpu", use_fast=False)
    for number, data in enumerate(files()):
        (tmp_path / "picture").write_bytes(data)
        rows = {row["label"]: row["score"] for row in classify(str(tmp_path / "picture"), top_k=3, function_to_apply="none")}
        wanted = [rows[said.id2label[index]] for index in range(3)]
        np.testing.assert_allclose(answer(data), wanted, rtol=0, atol=1e-4, err_msg=f"file {number}")
