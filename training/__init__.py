"""From data to an archive: train, evaluate, export, archive, one module a step."""
