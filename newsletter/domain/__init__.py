"""The rules. Pure: no I/O, SQL, clock, environment or logging."""
