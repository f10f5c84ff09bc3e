"""What serves: TorchServe and the gateway, watched, and the versions they serve."""
