"""ELECTRA: BERT's layers behind embeddings that may be narrower."""

from prune2deploy.models.families.bert import blocks, fixed
from prune2deploy.models.family import Family

FAMILIES = (Family(
    model_type="electra",
    heads={"ElectraForSequenceClassification": "classifier.out_proj"},
    blocks=blocks,
    unused=(r"^(discriminator|generator)_",),  # of the pretraining
    fixed=lambda config: {**fixed(config), "embedding_size": config.embedding_size},
),)  # fmt: skip
