from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.drawing import THREE, add_photos
from training import outliers


@pytest.fixture(scope="module")
def few_outliers() -> Iterator[None]:
    """Let calibration look at fewer drawn images, where several networks are calibrated."""
    with patch.object(outliers, "COUNT", 20):
        yield


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten photos of each of three classes, which are not split."""
    for name in THREE:
        add_photos(tmp_path / "my-photos", name, range(10))
    return tmp_path / "my-photos"
