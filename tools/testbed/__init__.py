"""Small random models and slow references, for tests and benchmarks."""
