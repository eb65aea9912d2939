"""One picture as phones, scanners and design programs write it, to see that each is read as transformers reads it."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image as Pictures

ORIENTATION = 0x0112  # the tag of EXIF that says how a photo is to be turned


def odd_images(data: bytes) -> dict[str, bytes]:
    """The picture in the encoded file `data` in other kinds of file, by what is odd about each."""
    from PIL import Image

    picture = Image.open(io.BytesIO(data)).convert("RGB")
    return {name: write(picture) for name, write in WRITERS.items()}


def _encoded(picture: "Pictures.Image", kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def _turned(kind: str, orientation: int) -> "Callable[[Pictures.Image], bytes]":
    def write(picture: "Pictures.Image") -> bytes:
        from PIL import Image

        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        return _encoded(picture, kind, exif=exif)

    return write


def _as_mode(mode: str, kind: str = "PNG") -> "Callable[[Pictures.Image], bytes]":
    return lambda picture: _encoded(picture.convert(mode), kind)


def _cut(width: float, height: float) -> "Callable[[Pictures.Image], bytes]":
    """The upper left part of the picture, of these shares of its width and height."""
    return lambda picture: _encoded(
        picture.crop((0, 0, max(1, int(picture.width * width)), max(1, int(picture.height * height)))), "PNG"
    )


def _transparent(picture: "Pictures.Image") -> bytes:
    palette = picture.quantize(16)
    return _encoded(palette, "PNG", transparency=palette.getpixel((0, 0)))


def _half_seen(picture: "Pictures.Image") -> bytes:
    layered = picture.copy()
    layered.putalpha(picture.convert("L"))
    return _encoded(layered, "PNG")


def _sixteen_bits(picture: "Pictures.Image") -> bytes:
    import numpy as np
    from PIL import Image

    return _encoded(Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257), "PNG")


def _moving(picture: "Pictures.Image") -> bytes:
    from PIL import ImageOps

    return _encoded(picture, "GIF", save_all=True, append_images=[ImageOps.invert(picture)], duration=100)


WRITERS: "dict[str, Callable[[Pictures.Image], bytes]]" = {
    **{f"a JPEG turned by its EXIF ({tag})": _turned("JPEG", tag) for tag in (2, 3, 5, 6, 8)},
    "a PNG turned by its EXIF": _turned("PNG", 6),
    "a TIFF turned by its EXIF": _turned("TIFF", 8),
    "a WebP turned by its EXIF": _turned("WEBP", 6),
    "a CMYK JPEG": _as_mode("CMYK", "JPEG"),
    "a CMYK TIFF": _as_mode("CMYK", "TIFF"),
    "a CIELAB TIFF": _as_mode("LAB", "TIFF"),
    "a grey JPEG": _as_mode("L", "JPEG"),
    "a black and white PNG": _as_mode("1"),
    "a PNG with a palette and transparency": _transparent,
    "a PNG with an alpha channel": _half_seen,
    "a grey PNG with an alpha channel": _as_mode("LA"),
    "a PNG of 16 bits": _sixteen_bits,
    "a TIFF of floating point numbers": _as_mode("F", "TIFF"),
    "an animated GIF": _moving,
    "a BMP": _as_mode("RGB", "BMP"),
    "a narrow image": _cut(0.4, 1.0),
    "a flat image": _cut(1.0, 0.4),
    "an image of one column": _cut(0.0, 1.0),
    "an image of one pixel": _cut(0.0, 0.0),
}
