"""HTTP: commands in, read models and live streams out. Owns nothing."""
