import pytest
import torch

from handler.transforms import Preprocessing
from training.outliers import drawn, measured


@pytest.mark.parametrize("size", [32, 96])
def test_all_kinds_are_images_that_repeat(size: int) -> None:
    for make in (drawn, measured):
        kinds, again = (make([Preprocessing(size)]) for _ in range(2))
        for name, images in kinds.items():
            pixels = images.pixels[0][:]
            assert pixels.dtype == torch.uint8
            assert pixels.shape[1:] == (3, size, size)
            assert len(pixels) >= 30
            assert len({image.numpy().tobytes() for image in pixels}) > 0.8 * len(pixels), name
            assert torch.equal(pixels, again[name].pixels[0][:])


def test_nothing_is_measured_on_what_it_was_chosen_with() -> None:
    assert drawn([Preprocessing(16)]).keys().isdisjoint(measured([Preprocessing(16)]))
