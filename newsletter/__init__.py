"""A self-hosted newsletter that sends one letter a week, at the hour its reader chose."""

__version__ = "0.1.0"
