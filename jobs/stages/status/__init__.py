"""What an operator sees of a lake: its state now, how it came to be, and a page of both."""
