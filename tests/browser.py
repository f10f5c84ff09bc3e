"""The options of the tests' Chromium: no window, no requests but those of the page, and two cameras."""

import shutil

_OFF = ("gpu", "quic", "background-networking", "component-update", "sync")
_CAMERA = ("--use-fake-device-for-media-stream=device-count=2", "--use-fake-ui-for-media-stream")
CHROMIUM = shutil.which("chromium-headless-shell")  # the distribution's; None lets Playwright take the one it has
CHROMIUM_OPTIONS = ["--no-sandbox", "--no-first-run", *(f"--disable-{feature}" for feature in _OFF), *_CAMERA]
