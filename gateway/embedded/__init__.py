"""The model in the gateway's own processes, for the smallest deployments: neither TorchServe nor Java."""
