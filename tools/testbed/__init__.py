"""Small random models and slow references: what tests and benchmarks stand on."""
