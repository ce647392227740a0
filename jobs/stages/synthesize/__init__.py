"""synthesize_pairs: passages read, models asked once, pictures found or made, pairs filtered and written."""
