"""What no reply of the product may hold, whatever was asked: looked for in every reply that any test gets."""

import tempfile

from tests.stack import ROOT

PLACES = (tempfile.gettempdir(), str(ROOT))
INSIDE = ("Traceback", "org.pytorch", "ModelServer", "site-packages", "InvalidKeyException", *PLACES)


def assert_tells_nothing(status: int, text: str) -> None:
    """Fail if the reply to a request that was refused or failed tells what the product is made of."""
    if status >= 400:
        told = [word for word in INSIDE if word in text]
        assert not told, f"a reply with status {status} tells {told}: {text}"
