"""The image processor that is saved with a model: loading it, and how large it makes images."""

from pathlib import Path
from typing import Any

from prune2deploy.errors import InputError, reason_of


def load_processor(model_dir: Path) -> Any:
    """The image processor that is saved in `model_dir`; raises whatever transformers raises."""
    from transformers import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(model_dir, backend="pil", trust_remote_code=False)


def size_made(directory: Path) -> list[int]:
    """Height and width of what the image processor in `directory` makes: a model of convolutions takes any.

    Raises InputError where there is no processor that says so.
    """
    from PIL import Image

    try:
        made = load_processor(directory)(Image.new("RGB", (64, 64)), return_tensors="np")["pixel_values"]
    except Exception as error:  # whatever a missing or broken file makes its parser raise
        raise InputError(f"{directory}: no usable image processor says how large images are: {reason_of(error)}") from None
    return list(made.shape[-2:])


def image_shape(config: Any) -> tuple[int, int, int]:
    """Channels, height and width of what a model with this configuration takes."""
    vision = getattr(config, "vision_config", config)
    size = vision.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return vision.num_channels, height, width
