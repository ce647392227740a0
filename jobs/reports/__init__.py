"""What people read: HTML pages with pictures, and tables for the terminal."""
