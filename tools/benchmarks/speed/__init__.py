"""Parts of the speed and memory benchmarks: random models of real shapes, ways, counts."""
