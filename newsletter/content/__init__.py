"""The content folder: reading it, judging it, and keeping it as one snapshot."""
