"""What a user asks for in place of an answer, each a short recipe over the steps."""
