"""Changed copies of an archive, without packing again: one worker, another version, or code that is no good."""

import zipfile
from pathlib import Path

from training.files import write_digest

# Handlers of versions that must not be served: each is the released one with a method of its own.
BAD_HANDLERS = {
    "confused": """
    def initialize(self, context):
        super().initialize(context)
        self.classifier.classes.reverse()
""",
    "raising": """
    def preprocess(self, data):
        raise RuntimeError
""",
    "dying": """
    def initialize(self, context):
        raise RuntimeError
""",
    "late": """
    def initialize(self, context):
        time.sleep(4)
        super().initialize(context)
""",
    "sleeping": """
    def preprocess(self, data):
        time.sleep(0.25)
        return super().preprocess(data)
""",
    "refusing": """
    def preprocess(self, data):
        return [[ImageError("No image at all.")] for request in data]
""",
}
BAD_HANDLER = """
import time
from handler.transforms import ImageError
from released_handler import ImageClassifier


class BadImageClassifier(ImageClassifier):
{method}"""


def rebuild(archive: Path, path: Path, changes: dict[str, tuple[str, str]], bad_handler: str = "") -> None:
    """Copy an archive with changes of its data, each in one place, and with one worker, which starts sooner.

    `bad_handler` names the method that its handler has in place of the released one's.
    """
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "model-config.yaml":
                content = content.replace(b"Workers: 2", b"Workers: 1")
            if name in changes:
                old, new = (text.encode() for text in changes[name])
                assert content.count(old) == 1, (name, old)
                content = content.replace(old, new)
            if bad_handler and name == "image_classifier.py":
                target.writestr("released_handler.py", content)
                content = BAD_HANDLER.format(method=BAD_HANDLERS[bad_handler]).encode()
            target.writestr(name, content)
    write_digest(path, path)


def numbered(version: str) -> dict[str, tuple[str, str]]:
    return {"MAR-INF/MANIFEST.json": ('"modelVersion": "1.0"', f'"modelVersion": "{version}"')}
