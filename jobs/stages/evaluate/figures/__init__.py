"""From vectors to rankings, scores, intervals and the table that UMRB prints."""
