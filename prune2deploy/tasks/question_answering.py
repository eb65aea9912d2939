"""Extractive question answering: which stretch of a context answers a question."""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from prune2deploy.data.splits import column, columns_of
from prune2deploy.errors import InputError
from prune2deploy.files import pretty_json, write_text
from prune2deploy.tasks.base import ANSWERING_FILE, Arrays, Labels, Metrics, RawSample, Run, Samples, Serving
from prune2deploy.tasks.classification import guess_label
from prune2deploy.tasks.objectives import NEVER, Joint, Outputs, Pointer
from prune2deploy.tasks.own_tokenizer import TYPES
from prune2deploy.tasks.rows import first_called
from prune2deploy.tasks.spans import LONGEST_ANSWER, Agreement, SquadMetric, Window
from prune2deploy.tasks.texts import FromTexts, TextSamples

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel

START, END = "start_logits", "end_logits"
WINDOW = 384  # tokens of a question with a part of its context, as in the script of SQuAD's example
STRIDE = 128  # tokens that a window has of the one before
CONTEXTS = ("context", "passage", "paragraph")
ANSWERS = ("answers", "answer")


class WindowSamples(TextSamples):
    """Questions, each with a window of its context.

    `windows`: of all samples that these were selected from; labels [n, 3]: the first and the last token of the answer, and
    which window it is. `answers`: right ones of every question.
    """

    def __init__(
        self, encoded: dict[str, list[list[int]]], labels: Labels | None, padding: dict[str, int], windows: list[Window],
        answers: list[list[str]] | None,
    ):
        super().__init__(encoded, labels, padding)
        self.windows, self.answers = windows, answers

    def select(self, indices: list[int]) -> "WindowSamples":
        """See Samples."""
        encoded = {name: [rows[index] for index in indices] for name, rows in self.encoded.items()}
        return WindowSamples(encoded, self._labels(indices), self.padding, self.windows, self.answers)


@dataclass(frozen=True)
class Right:
    """An answer that is right, and where in the context it begins; None where that is not said."""

    text: str
    start: int | None


class QuestionAnswering(FromTexts):
    """A question and a context to a stretch of it; start and end logits [n, tokens].

    A long context is cut into windows that overlap, each of them a sample; the answer is the best of all.
    """

    name = "question-answering"
    architecture_suffix = "ForQuestionAnswering"
    reads_first_token = False
    columns = ("text", "text_pair", "label")
    outputs = (START, END)
    objective = Joint({START: Pointer(), END: Pointer()})
    metrics: ClassVar[Metrics] = {
        "f1": lambda task, samples: task.squad(samples, exact=False),
        "exact-match": lambda task, samples: task.squad(samples, exact=True),
    }  # fmt: skip
    served, raw_names = "question", ("QUESTION", "CONTEXT")
    serving = Serving(
        chain="question_model", takes={"QUESTION": ("string", (1,)), "CONTEXT": ("string", (1,))},
        gives={"ANSWER": ("string", (1,)), "SCORE": ("float32", (1,)), "SPAN": ("int64", (2,))},
    )  # fmt: skip
    least_of_own = 0.0  # which answers are right is no matter of positions

    @classmethod
    def guess_columns(cls, features: dict[str, object], given: dict[str, str], where: str) -> dict[str, str]:
        """See Task."""
        question = given.get("text") or first_called(("question", "query"), features)
        context = given.get("text_pair") or first_called(CONTEXTS, features)
        if question is None or context is None:
            option, what = ("--text", "question") if question is None else ("--text-pair", "context")
            has = ", ".join(features)
            raise InputError(f"data {where!r}: which column is the {what}? Name it with {option}; it has: {has}")
        answers = first_called(ANSWERS, features)
        named = given if answers is None else {"label": answers, **given}
        return {"text": question, "text_pair": context, "label": guess_label(features, named, where)}

    @functools.cached_property
    def limit(self) -> int:
        """See FromTexts; contexts are read in windows, so that nothing is lost by shorter ones."""
        return super().limit if self.data.max_length else min(WINDOW, super().limit)

    def samples_of(self, rows: "Dataset", split: str, judged: bool = False) -> Samples:
        """See FromRows: all windows of all rows."""
        self.refuse_slow_tokenizer()
        questions, contexts = self.texts(rows, split)
        answers = self._answers(rows, contexts, split, judged)
        encoded: dict[str, list[list[int]]] = {name: [] for name in self.input_names}
        windows: list[Window] = []
        spans: list[tuple[int, int, int]] = []
        for row, (question, context) in enumerate(zip(questions, contexts, strict=True)):
            found = self._windows(question, context, functools.partial(self.placed, rows, row, split))
            for index, offsets in enumerate(found["offset_mapping"]):
                sequence = found.sequence_ids(index)
                windows.append(Window(row, context, [
                    tuple(span) if side == 1 and span[0] < span[1] else None
                    for span, side in zip(offsets, sequence, strict=True)
                ]))  # fmt: skip
                first, last = windows[-1].tokens_of(None if answers is None else _first(answers[row]))
                spans.append((first, last, len(spans)))
                for name, values in encoded.items():
                    values.append(found[name][index])
        labels = None if answers is None else np.asarray(spans, dtype=np.int64)
        texts = None if answers is None else [[each.text for each in right] for right in answers]
        return WindowSamples(encoded, labels, self.padding, windows, texts)

    def _windows(self, question: str, context: str, place: Callable[[], str]) -> Any:
        """The tokens of `question` with each window of `context`; raises InputError, naming the `place`, where none fits."""
        taken = len(self.tokenizer(question, add_special_tokens=False)["input_ids"])
        room = self.limit - taken - self.tokenizer.num_special_tokens_to_add(pair=True)
        if room < 2:
            raise InputError(
                f"data {self.data.path!r}, {place()}: the question has {taken} tokens, and {self.limit} are read at once: "
                "there is no room for the context; leave it out, or read more (--max-length)"
            )
        return self.tokenizer(
            question, context, truncation="only_second", max_length=self.limit, stride=min(STRIDE, room // 2),
            return_overflowing_tokens=True, return_offsets_mapping=True, return_attention_mask=True,
            return_token_type_ids=TYPES in self.input_names,
        )  # fmt: skip

    def _answers(self, rows: "Dataset", contexts: list[str], split: str, required: bool) -> list[list[Right]] | None:
        """The right answers of each row, none where it has no answer; None where the data has no answers.

        Raises InputError, naming the row, for what is no answer.
        """
        name = self.data.columns.get("label")
        if not name or (name not in columns_of(rows) and not required):
            return None
        name = column(rows, "label", self.data.columns, self.data.path, split)
        found = []
        for row, (value, context) in enumerate(zip(rows[name][:], contexts, strict=True)):
            answers = _read(value)
            wrong = next((each for each in answers or () if each.start is None and each.text not in context), None)
            wrong = wrong or next((each for each in answers or () if not _there(each, context)), None)
            if answers is None or wrong is not None:
                raise InputError(
                    f"data {self.data.path!r}, {self.placed(rows, row, split)}: {_wrong(value, wrong)}; give a text of the "
                    'context, or as SQuAD does {"text": […], "answer_start": […]}'
                )
            starts = [context.find(each.text) if each.start is None else each.start for each in answers]
            found.append([Right(each.text, start) for each, start in zip(answers, starts, strict=True)])
        return found

    def samples_of_raw(self, samples: Samples, count: int) -> list[list[int]]:
        """See Task: the windows of each question."""
        assert isinstance(samples, WindowSamples)
        found: dict[int, list[int]] = {}
        for index, window in enumerate(samples.windows):
            found.setdefault(window.row, []).append(index)
        return list(found.values())[:count]

    def squad(self, samples: Samples, exact: bool) -> SquadMetric | Agreement:
        """SQuAD's metric, or, without answers, how often both ends are those of the dense model."""
        assert isinstance(samples, WindowSamples)
        if samples.answers is None:
            return Agreement((START, END))
        return SquadMetric((START, END), samples.windows, samples.answers, exact)

    def targets(self, labels: np.ndarray) -> "dict[str, torch.Tensor]":
        """See Task: start and end of the answer; of a window without it, the first token."""
        import torch

        return {name: torch.from_numpy(labels[:, side].copy()) for side, name in enumerate(self.outputs)}

    def predictions(self, outputs: Outputs) -> np.ndarray:
        """The likeliest start and end of each sample, [n, 2]."""
        found = [outputs[name] for name in self.outputs]
        counting = [each.values if each.counted is None else np.where(each.counted, each.values, NEVER) for each in found]
        return np.stack([logits.argmax(-1) for logits in counting], axis=1)

    def constant(self, labels: Labels) -> Run:
        """See Task: the whole context, as far as an answer goes."""

        def run(inputs: Arrays) -> Arrays:
            flat = np.zeros(inputs["input_ids"].shape, dtype=np.float32)
            return {START: flat, END: flat}

        return run

    def outside(self, model: "PreTrainedModel | None" = None) -> Callable[[RawSample], np.ndarray]:
        """See Task: of the model's own class and the tokenizer, as transformers 5 has no such pipeline.

        All start logits of a window and then its end logits, window after window.
        """
        import torch
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.model_dir, config=self.config, trust_remote_code=False)
        ask = model or self.anew()

        def answer(sample: RawSample) -> np.ndarray:
            question, context = (sample[name].decode() for name in self.raw_names)
            added = tokenizer.num_special_tokens_to_add(pair=True)
            room = self.limit - len(tokenizer(question, add_special_tokens=False)["input_ids"]) - added
            encoded = tokenizer(
                question, context, truncation="only_second", max_length=self.limit, stride=min(STRIDE, room // 2),
                return_overflowing_tokens=True,
            )  # fmt: skip
            said = []
            for index in range(len(encoded["input_ids"])):
                given = {
                    name: torch.tensor([encoded[name][index]]) for name in encoded if name != "overflow_to_sample_mapping"
                }
                with torch.no_grad():
                    returned = ask(**given)
                said += [returned.start_logits[0].numpy(), returned.end_logits[0].numpy()]
            return np.concatenate(said)

        return answer

    def preprocessing_settings(self) -> dict[str, Any]:
        """See FromTexts."""
        return {"stride": STRIDE}

    def write_answering(self, directory: "Path") -> None:
        """See Task: what an answer may be."""
        evaluation = self.evaluation()
        assert isinstance(evaluation, WindowSamples)
        unanswerable = evaluation.answers is not None and not all(evaluation.answers)
        settings = {"longest": LONGEST_ANSWER, "may_have_none": unanswerable, "outputs": list(self.outputs)}
        write_text(directory / ANSWERING_FILE, pretty_json(settings) + "\n")


def _wrong(value: Any, answer: Right | None) -> str:
    """What is wrong with a cell that holds no answers, or this one, which is not in the context."""
    if answer is None:
        return f"the answer is {value!r:.60}"
    place = "" if answer.start is None else f" at character {answer.start}"
    return f"the answer {answer.text!r:.60} is not in the context{place}"


def _first(answers: list[Right]) -> tuple[int, int] | None:
    """Where in the context the first right answer begins and ends; None where there is none."""
    if not answers or not answers[0].text:
        return None
    start = answers[0].start or 0
    return start, start + len(answers[0].text)


def _there(answer: Right, context: str) -> bool:
    return answer.start is None or context[answer.start : answer.start + len(answer.text)] == answer.text


def _read(value: Any) -> list[Right] | None:
    """The answers that a cell holds: a text, several, or what SQuAD has; None for what is none of these."""
    if isinstance(value, bytes):  # what a column of JSON is kept as where its rows are of several kinds
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if value is None:
        return []
    if isinstance(value, str):
        return [Right(value, None)] if value else []
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        value = {"text": [value["text"]], "answer_start": [value.get("answer_start")]}
    if isinstance(value, dict):
        texts, starts = value.get("text"), value.get("answer_start")
        starts = starts if isinstance(starts, list) else [None] * len(texts or [])
        if not isinstance(texts, list) or len(starts) != len(texts):
            return None
        value = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if not isinstance(value, list):
        return None
    pairs = [(each, None) if isinstance(each, str) else _pair(each) for each in value]
    if any(not isinstance(text, str) or not (start is None or isinstance(start, int)) for text, start in pairs):
        return None
    return [Right(text, start) for text, start in pairs if text]


def _pair(value: Any) -> tuple[Any, Any]:
    return (value.get("text"), value.get("answer_start")) if isinstance(value, dict) else (None, None)
