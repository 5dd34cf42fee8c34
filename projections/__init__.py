"""The read side: pure folds of the log's events into rows, the SQL that holds and reads them, and the projector.

``projection`` says what a fold is; there is one module for each table that is folded; ``fold`` applies them all to a
batch of decisions; ``store`` writes what changed, ``schema`` and ``rebuild`` make the tables, ``projector`` keeps them
up to date, ``queries`` and ``waiting`` are for readers.
"""
