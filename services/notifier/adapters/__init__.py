"""What gives the notifier the outside: webhooks over HTTP, and the file that keeps its position."""
