"""One page of the textbook each; they never import one another."""
