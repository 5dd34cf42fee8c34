"""What things cost, beside the floor that raw JetStream sets in the same run: ``python -m tests.bench``.

Nothing here is a test: no figure makes anything fail. Each module measures one thing and answers with rows of a table.
"""
