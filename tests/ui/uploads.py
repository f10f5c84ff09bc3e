"""What the tests of the page choose, drop and paste."""

from playwright.sync_api import FilePayload

from tests.drawing import draw, encode

PICTURE = encode(draw("green", 11))


def upload(content: bytes = PICTURE, name: str = "picture.png", kind: str = "image/png") -> FilePayload:
    return {"name": name, "mimeType": kind, "buffer": content}
