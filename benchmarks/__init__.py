"""Each module prints its own figures beside a peer's, in one run, and ends in one line of JSON."""
