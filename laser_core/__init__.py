"""LASER: layer-adaptive visual localization and decoding for vision-language models.

arXiv 2602.04304, without ComfyUI. `pipeline.answer` is the whole method; every step is a module.
"""

__version__ = "0.1.0"
