"""Where the scheduler meets the outside."""
