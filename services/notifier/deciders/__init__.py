"""The pure rules of the entities that the notifier owns."""
