"""What sending costs, measured: `make bench`."""
