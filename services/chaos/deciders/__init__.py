"""What may follow for experiments and for chaos as a whole."""
