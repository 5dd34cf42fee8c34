"""Owns deliveries: who is told what, through which channel, once. It never stands in the way of the work."""
