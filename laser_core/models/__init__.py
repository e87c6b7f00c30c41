"""Models and what they read: families, chats, loading, downloads. Knows nothing of the method."""
