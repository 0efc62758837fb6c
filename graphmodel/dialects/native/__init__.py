"""The native format: its YAML model, its resolver to a `ModelSpec`, and its writer."""
