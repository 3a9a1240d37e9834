"""One module per use case. Services own the transactions; none is ever open across a network call."""
