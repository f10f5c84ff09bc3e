"""The code that runs inside a TorchServe worker, and no other code."""
