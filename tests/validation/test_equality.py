from types import SimpleNamespace

import numpy as np
import pytest

from prune2deploy.exporting.parts import raw_check
from prune2deploy.exporting.recheck import reference_check
from prune2deploy.repository.references import References
from prune2deploy.tasks.objectives import Categorical, Joint, Output, Pointer
from prune2deploy.validation.assess import equality_check

WANTED = {"start": Output(np.array([[1.0, -5.0]])), "end": Output(np.array([[0.0, 2.0]]))}


@pytest.mark.parametrize("name", WANTED)
@pytest.mark.parametrize(("error", "passed"), [(0.0049, True), (0.0051, False), (np.nan, False)])
def test_every_output_must_be_what_is_wanted_up_to_a_share_of_the_largest(name, error, passed):
    outputs = {**WANTED, name: Output(WANTED[name].values + error)}
    check = equality_check("equal", outputs, WANTED, 1e-3)
    assert check.passed == passed
    assert check.detail.startswith("start and end differ by at most ")
    assert check.detail.endswith("over 1 samples (tolerance 0.005)")


@pytest.mark.parametrize("name", ["start", "tokens"])
@pytest.mark.parametrize("error", [0.0, 1.0, np.nan])
def test_raw_samples_are_compared_where_they_are_no_padding(name, error):
    task = SimpleNamespace(
        raw=lambda count: {"TEXT": [b"abc", b"a", b"left out"][:count]}, outputs=("start", "tokens"),
        samples_of_raw=lambda samples, count: [[index] for index in range(min(count, len(samples)))],
        model_inputs=lambda arrays: arrays,
        objective=Joint({"start": Pointer(), "tokens": Categorical(per_position=True)}),
        counted=lambda inputs: inputs["ids"] != 0,
    )

    def preprocessor(raw):
        [text] = raw["TEXT"]
        return {"ids": np.array([[*text, *[0] * (4 - len(text))]], dtype=float)}

    def run(inputs):
        ids, padding = inputs["ids"], np.where(inputs["ids"] == 0, 7.0, 0.0)
        found = {"start": ids + padding, "tokens": np.stack([ids, -ids], axis=-1) + padding[..., None]}
        if ids[0, 1] == 0:  # the second sample
            found[name][0, 0] += error
        return found

    texts = [[97.0, 98, 99], [97.0]]

    class Ours:
        def __init__(self, rows):
            self.rows = rows

        def __len__(self):
            return len(self.rows)

        def first(self, count):
            return Ours(self.rows[:count])

        def select(self, indices):
            return Ours([self.rows[index] for index in indices])

        def batches(self, size):
            for index, row in enumerate(self.rows):
                yield [index], SimpleNamespace(inputs=row, valid=None)

    def right(row):
        ids = np.array([row])
        return {"start": ids, "tokens": np.stack([ids, -ids], axis=-1)}

    assert raw_check(preprocessor, task, SimpleNamespace(run=run), right, Ours(texts), 1e-4).passed == (error == 0)


@pytest.mark.parametrize("name", WANTED)
@pytest.mark.parametrize(("error", "passed"), [(0.0009, True), (0.0011, False), (np.nan, False)])
def test_every_output_of_the_references_is_asked_for(name, error, passed):
    outputs = {key: each.values for key, each in WANTED.items()}
    engine = SimpleNamespace(run=lambda inputs: {**outputs, name: outputs[name] + error, "unasked": np.ones(3)})
    assert reference_check("reference outputs", engine, References({}, outputs, {}, [], [], {}, []), 1e-3).passed == passed
