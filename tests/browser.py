"""How the tests start Chromium: quietly, as nothing but the product may be asked for anything, and with two cameras."""

_OFF = ("gpu", "quic", "background-networking", "component-update", "sync")
_CAMERA = ("--use-fake-device-for-media-stream=device-count=2", "--use-fake-ui-for-media-stream")
CHROMIUM_OPTIONS = ["--no-sandbox", "--no-first-run", *(f"--disable-{feature}" for feature in _OFF), *_CAMERA]
