"""The gateway: a Flask service that turns the documented contract into TorchServe calls and serves the page."""
