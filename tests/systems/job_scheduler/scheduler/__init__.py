"""A distributed job scheduler: an API over PostgreSQL, and workers that ask it for jobs."""
