"""Parts of the speed benchmark: random models of real shapes, ways to answer, clock, counts."""
