"""Small pictures of samples that are images, as PNG files of their own."""

import struct
import zlib

import torch
from torch import Tensor

LARGEST_SIDE = 32
_GREY, _COLOUR = 0, 2  # colour types of PNG (W3C, Portable Network Graphics, section 11.2.2)


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether samples of a shape are images: channels first, of grey values or colours."""
    return len(shape) == 3 and shape[0] in (1, 3)


def png_of(image: Tensor, scale: float = 1.0) -> bytes:
    """Return an image ``(1 or 3, height, width)`` as a PNG of 8 bits, no side longer than ``LARGEST_SIDE``.

    Longer sides are averaged down. Values times ``scale`` are drawn from 0, dark, to 1; where they leave that range,
    from the image's smallest to its largest. Values that are not finite are drawn dark.
    """
    pixels = (image.double() * scale).nan_to_num(0.0, 0.0, 0.0)
    factor = -(-max(pixels.shape[1:]) // LARGEST_SIDE)
    if factor > 1:
        pixels = torch.nn.functional.avg_pool2d(pixels.unsqueeze(0), factor, ceil_mode=True).squeeze(0)
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0 or high > 1:
        pixels = (pixels - low) / max(high - low, torch.finfo(torch.float64).tiny)
    rows = (255 * pixels).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    height, width, channels = rows.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _GREY if channels == 1 else _COLOUR, 0, 0, 0)
    # Each row begins with its filter: none.
    data = b"".join(b"\0" + bytes(row.flatten().tolist()) for row in rows)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(data, 9)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
