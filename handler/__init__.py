"""What runs inside a TorchServe worker, and nothing else."""
