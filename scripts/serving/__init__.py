"""Serving: TorchServe and the gateway, watched, and the versions that they serve."""
