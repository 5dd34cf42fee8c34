"""The services, one package each, all of the same shape; none imports another.

``__main__`` names the concrete adapters; ``handlers`` receive commands, load, decide, append and send;
``deciders/`` hold the pure rules, ``policy`` the pure choices, ``reconcile`` the pure comparisons of what the log
wants with what the world shows; ``ports`` says in the service's words what it needs from outside; ``adapters/``
give it.
"""
