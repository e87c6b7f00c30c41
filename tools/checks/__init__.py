"""What runs long or seldom: soak, mutations, other Pythons."""
