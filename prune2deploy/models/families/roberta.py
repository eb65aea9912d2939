"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT's layers; positions are counted from behind the padding token's number."""

from typing import TYPE_CHECKING

from prune2deploy.models.families.bert import blocks, fixed
from prune2deploy.models.family import Family, text_heads

if TYPE_CHECKING:
    from transformers import RobertaConfig


def longest(config: "RobertaConfig") -> int:
    """See Family."""
    return config.max_position_embeddings - config.pad_token_id - 1


def family(model_type: str, name: str) -> Family:
    """One of RoBERTa's kin, whose classes begin with `name`."""
    heads = text_heads(name, "classifier.out_proj", "lm_head.decoder")
    return Family(model_type, heads, blocks, fixed, unused=(r"^lm_head\.", r"^roberta\.pooler\."), longest=longest)


FAMILIES = (family("roberta", "Roberta"), family("xlm-roberta", "XLMRoberta"), family("camembert", "Camembert"))
