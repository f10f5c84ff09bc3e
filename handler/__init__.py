"""The code that runs inside a TorchServe worker, and no other code."""

import os

# Otherwise ONNX Runtime, once it is imported, tells Microsoft about this machine and about each network that it opens.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
