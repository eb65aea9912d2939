"""Encoded images to pixels: decoded, resized, cropped and normalised as `preprocessing.json` says.

Copied into packages as `preprocessing.py`; needs numpy and pillow.
"""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


class Preprocessor:
    """The model's own image processing, as `preprocessing.json` in `directory` says."""

    columns = ("IMAGE",)

    def __init__(self, directory: Path):
        self.settings = json.loads((directory / "preprocessing.json").read_text(encoding="utf-8"))

    def __call__(self, columns: dict[str, list[bytes]]) -> dict[str, np.ndarray]:
        """The model's input, [n, 3, height, width]; raises ValueError for what is no image."""
        return {"pixel_values": np.stack([self.pixels(data) for data in columns["IMAGE"]])}

    def pixels(self, data: bytes) -> np.ndarray:
        """[3, height, width] of one encoded image."""
        settings = self.settings
        try:
            image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")  # photos carry how to turn them
        except Exception as error:  # pillow raises many kinds for a broken file
            raise ValueError(f"not a readable image: {error}") from None
        if settings.get("on_white") and image.info.get("transparency") is not None:  # the colour that is meant to be none
            layer = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), layer).convert("RGB")
        if settings["resize"]:
            height, width = resized(image.height, image.width, settings["resize"])
            image = image.resize((width, height), settings["resample"])
        pixels = np.asarray(image)
        if settings["crop"]:
            pixels = centre(pixels, *settings["crop"])
        if settings.get("only") and list(pixels.shape[:2]) != settings["only"]:
            wanted, given = (" × ".join(map(str, size)) for size in (settings["only"], pixels.shape[:2]))
            raise ValueError(f"the image comes out as {given} pixels (height × width), and the model takes {wanted}")
        scaled = (pixels.astype(np.float64) * settings["scale"]).astype(np.float32)  # rounds as transformers does
        normalised = (scaled - np.float32(settings["mean"])) / np.float32(settings["std"])
        return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def resized(height: int, width: int, size: list[int]) -> tuple[int, int]:
    """`size` is a height and a width, or the length of the shorter edge alone."""
    if len(size) == 2:
        return size[0], size[1]
    longer = int(size[0] * max(height, width) / min(height, width))
    return (size[0], longer) if height <= width else (longer, size[0])


def centre(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle `height` × `width` of `pixels`, [rows, columns, 3]; black where that is beyond their edge."""
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    inside = pixels[max(top, 0) : top + height, max(left, 0) : left + width]
    framed = np.zeros((height, width, pixels.shape[2]), pixels.dtype)
    row, column = max(-top, 0), max(-left, 0)
    framed[row : row + inside.shape[0], column : column + inside.shape[1]] = inside
    return framed
