from collections.abc import Iterator
from unittest.mock import patch

import pytest

from training import outliers


@pytest.fixture(scope="module")
def few_outliers() -> Iterator[None]:
    """Let calibration look at fewer drawn images, where several networks are calibrated."""
    with patch.object(outliers, "COUNT", 20):
        yield
