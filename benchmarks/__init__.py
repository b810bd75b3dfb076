"""Measurements of Ducktower against in-process DuckDB and against the wire itself.

Owns how fast things are. Must never decide whether they are right, except that a wrong row count fails a run.
"""
