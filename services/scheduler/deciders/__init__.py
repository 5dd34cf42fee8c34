"""The pure rules of projects and tasks."""
