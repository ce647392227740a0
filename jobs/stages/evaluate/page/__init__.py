"""An evaluation for people: the terminal's table and the page."""
