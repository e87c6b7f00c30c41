"""What is measured: quality on the demo worlds, time and memory of the method."""
