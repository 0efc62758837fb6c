"""What a training loop takes from the spec: parameter groups, updates of teachers, parameters that train later."""
