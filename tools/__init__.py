"""What builds shipped artefacts (the demo model), and the benchmarks."""
