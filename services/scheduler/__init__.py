"""Owns projects and tasks: dependencies, order, limits, stages and gates, retries; decides what runs next."""
