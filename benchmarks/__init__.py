"""The same work in this library and in its peers, timed in one run."""
