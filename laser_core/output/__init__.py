"""What a run shows and reports. Computes nothing of the method."""
