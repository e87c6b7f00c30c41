"""What the quality benchmark is made of: rows, measurement, statistics, tables."""
