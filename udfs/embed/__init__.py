"""What tasks do with rows of the source: stamp, read, embed, preview."""
