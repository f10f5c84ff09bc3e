"""TorchServe's APIs, and nothing else knows them."""
