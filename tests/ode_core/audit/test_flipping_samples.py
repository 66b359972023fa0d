import base64
import struct
import zlib

import numpy as np
import torch

from ode_core.audit.audit import audit
from ode_core.audit.flipping_samples import MOST_LISTED, flipping_samples
from ode_core.audit.picture import LARGEST_SIDE, png_of
from ode_core.models.predictions import predict
from ode_core.specs import SolverSpec
from tests.ode_core.audit.linear_models import Explosion, circle, classifier_around, euler_angle, rotation

EULER4 = SolverSpec(method="euler", steps=4)


def pixels_of(png: bytes) -> np.ndarray:
    """Read a PNG of 8 bits without filters: ``(height, width, channels)``."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, place = {}, 8
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        kind, data = png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        (check,) = struct.unpack(">I", png[place + 8 + length : place + 12 + length])
        assert check == zlib.crc32(kind + data)
        chunks[kind], place = data, place + 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, colour, *_ = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    channels = {0: 1, 2: 3}[colour]
    assert depth == 8
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), dtype=np.uint8).reshape(height, 1 + width * channels)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, channels)


def test_the_points_between_the_flow_and_its_euler_steps_flip() -> None:
    angle, samples = 2.0, 200
    model, inputs = rotation(angle), circle(samples)
    labels = predict(model, inputs, EULER4).labels
    report = audit(model, inputs, labels, EULER4)

    found = flipping_samples(report, inputs, labels, turning_times={0: 0.25})

    places = (np.arange(samples) + 0.5) * 2 * np.pi / samples
    right_by_flow, right_by_steps = np.cos(places + angle) > 0, np.cos(places + euler_angle(angle, 4)) > 0
    (expected,) = np.nonzero(right_by_flow != right_by_steps)
    assert found.count == len(expected)
    assert [one.sample for one in found.listed] == expected[:MOST_LISTED].tolist()
    for one in found.listed:
        place = places[one.sample]
        assert (one.trained, one.reference) == (int(right_by_steps[one.sample]), int(right_by_flow[one.sample]))
        # The logits are -x and x.
        np.testing.assert_allclose(one.reference_margin, 2 * abs(np.cos(place + angle)), atol=1e-3)
        np.testing.assert_allclose(one.coordinates, [np.cos(place), np.sin(place)], rtol=1e-6)
        assert one.picture is None
        assert one.settled
        assert one.turning_time is None


def test_no_more_are_listed_than_asked_for() -> None:
    model, inputs = rotation(2.0), circle(200)
    labels = predict(model, inputs, EULER4).labels
    found = flipping_samples(audit(model, inputs, labels, EULER4), inputs, labels, most=3)
    assert found.count > len(found.listed) == 3


def test_a_solve_that_fails_has_neither_class_nor_margin() -> None:
    # The flow of z' = z^2 from 2 ends before t = 1.
    inputs = torch.cat([torch.tensor([[2.0, 0.0]]), torch.full((30, 2), -0.5)])
    model, solver = classifier_around(Explosion()), SolverSpec(method="euler", steps=64)
    labels = torch.zeros(31, dtype=torch.int64)

    (one,) = flipping_samples(audit(model, inputs, labels, solver), inputs, labels).listed

    assert (one.sample, one.reference, one.reference_margin, one.settled) == (0, None, None, False)


def test_images_come_as_pictures() -> None:
    model, inputs = rotation(2.0), circle(200)
    labels = predict(model, inputs, EULER4).labels
    report = audit(model, inputs, labels, EULER4)
    images = torch.arange(200 * 6, dtype=torch.float32).reshape(200, 1, 2, 3) % 17

    found = flipping_samples(report, images, labels, input_scale=1 / 16)

    for one in found.listed:
        assert one.coordinates is None
        assert one.picture is not None
        grey = pixels_of(base64.b64decode(one.picture))[:, :, 0]
        np.testing.assert_array_equal(grey, np.round(images[one.sample, 0].numpy() / 16 * 255))


def test_a_picture_keeps_its_colours() -> None:
    image = torch.zeros(3, 2, 2)
    image[0, 0, 1], image[2, 1, 0] = 1.0, 0.2
    pixels = pixels_of(png_of(image))
    assert pixels[0, 1].tolist() == [255, 0, 0]
    assert pixels[1, 0].tolist() == [0, 0, 51]


def test_a_large_picture_is_averaged_down() -> None:
    pixels = pixels_of(png_of(torch.full((1, 100, 60), 0.4)))
    assert max(pixels.shape) <= LARGEST_SIDE
    assert set(pixels.flatten().tolist()) == {102}


def test_values_beyond_the_range_are_drawn_from_the_smallest_to_the_largest() -> None:
    pixels = pixels_of(png_of(torch.tensor([[[-3.0, 1.0], [5.0, float("nan")]]])))
    assert pixels[:, :, 0].tolist() == [[0, 128], [255, 96]]  # NaN as 0


def test_as_many_pictures_as_are_listed_are_small_even_of_noise() -> None:
    noise = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    # Base64 makes four characters of three bytes; 24 of them leave room for the rest of 200 kB.
    assert MOST_LISTED * len(png_of(noise)) * 4 / 3 < 120_000
