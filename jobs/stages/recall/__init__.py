"""measure_recall: queries, exact results kept by their key, searches with a clock, figures by kind and segment."""
