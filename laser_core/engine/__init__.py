"""How steps run on a model: capture, kernels, caches, reading, two streams. Chooses nothing."""
