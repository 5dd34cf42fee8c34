"""A Docker engine: what Cairn asks of it, and the labels by which it knows its own."""
