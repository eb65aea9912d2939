"""What models say, for tests of models with one output."""

from prune2deploy.tasks.objectives import Output
from prune2deploy.tasks.predict import outputs_of, torch_run


def logits_of(model, task, samples):
    """[n, classes]."""
    return outputs_of(torch_run(model, task), task, samples)["logits"].values


def divergence(task, logits, reference):
    return task.objective.divergence({"logits": Output(logits)}, {"logits": Output(reference)})
