"""The model types this method supports, for code that must not import torch to list models."""

SUPPORTED = ("llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""The keys of `families.FAMILIES`, in its order."""
