import torch

from handler.transforms import INPUT_SIZE
from training.outliers import drawn, measured


def test_all_kinds_are_images_that_repeat() -> None:
    for make in (drawn, measured):
        kinds, again = make(), make()
        for name, pixels in kinds.items():
            assert pixels.dtype == torch.uint8
            assert pixels.shape[1:] == (3, INPUT_SIZE, INPUT_SIZE)
            assert len(pixels) >= 30
            assert len({image.numpy().tobytes() for image in pixels}) > 0.8 * len(pixels), name
            assert torch.equal(pixels, again[name])


def test_nothing_is_measured_on_what_it_was_chosen_with() -> None:
    assert drawn().keys().isdisjoint(measured())
