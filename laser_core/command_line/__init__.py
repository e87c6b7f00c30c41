"""The commands of `python -m laser_core`: a file each. They hold no step of the method."""
