"""Networks by name (catalogue.py), their modules, files of weights, and the training loop."""
