"""ELECTRA: BERT's layers behind embeddings that may be narrower."""

from prune2deploy.models.families.bert import blocks, fixed
from prune2deploy.models.family import Family, text_heads

FAMILIES = (Family(
    model_type="electra",
    heads=text_heads("Electra", "classifier.out_proj", "generator_lm_head"),
    blocks=blocks,
    unused=(r"^(discriminator|generator)_",),  # of the pretraining
    fixed=lambda config: {**fixed(config), "embedding_size": config.embedding_size},
),)  # fmt: skip
