"""How the tests start Chromium: quietly, as nothing but the product may be asked for anything."""

_OFF = ("gpu", "quic", "background-networking", "component-update", "sync")
CHROMIUM_OPTIONS = ["--no-sandbox", "--no-first-run", *(f"--disable-{feature}" for feature in _OFF)]
