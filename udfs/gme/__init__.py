"""What GME does to a row: prompt, image, patches, token-budget batches, forward pass, vector."""
