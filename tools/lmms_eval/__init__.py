"""Tasks and data for lmms-eval."""
