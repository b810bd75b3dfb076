"""Rows shaped like TPC-H's lineitem: 16 columns of integers, decimals, dates and strings.

Owns how they are made: by SQL alone, from the row's number, so that every run has the same rows and nothing
is downloaded. Must never be taken for TPC-H itself: the values are as wide and as varied, not the same.
"""

from __future__ import annotations

__all__ = ["LITERALS", "columns", "create_table"]

_COLUMNS = {
    "l_orderkey": ("BIGINT", "i // 4 + 1"),
    "l_partkey": ("BIGINT", "h1 % 200000 + 1"),
    "l_suppkey": ("BIGINT", "h2 % 10000 + 1"),
    "l_linenumber": ("BIGINT", "i % 4 + 1"),
    "l_quantity": ("DECIMAL(15,2)", "h3 % 50 + 1"),
    "l_extendedprice": ("DECIMAL(15,2)", "(h1 % 10400000 + 90000) / 100"),
    "l_discount": ("DECIMAL(15,2)", "(h2 % 11) / 100"),
    "l_tax": ("DECIMAL(15,2)", "(h3 % 9) / 100"),
    "l_returnflag": ("VARCHAR", "['A', 'N', 'R'][1 + h1 % 3]"),
    "l_linestatus": ("VARCHAR", "['F', 'O'][1 + h2 % 2]"),
    "l_shipdate": ("DATE", "DATE '1992-01-02' + (h1 % 2526)::INTEGER"),
    "l_commitdate": ("DATE", "DATE '1992-01-31' + (h2 % 2466)::INTEGER"),
    "l_receiptdate": ("DATE", "DATE '1992-01-04' + (h3 % 2554)::INTEGER"),
    "l_shipinstruct": (
        "VARCHAR",
        "['DELIVER IN PERSON', 'COLLECT COD', 'NONE', 'TAKE BACK RETURN'][1 + h1 % 4]",
    ),
    "l_shipmode": ("VARCHAR", "['REG AIR', 'AIR', 'RAIL', 'SHIP', 'TRUCK', 'MAIL', 'FOB'][1 + h2 % 7]"),
    "l_comment": ("VARCHAR", "substr(words, 1 + (h3 % 180)::INTEGER, 10 + (h1 % 34)::INTEGER)"),
}

_WORDS = (
    "carefully regular deposits sleep furiously above the quickly final packages, ironic requests wake "
    "slyly along the blithely bold accounts; express theodolites haggle among the even pinto beans, silent "
    "foxes nag against the unusual instructions until the pending ideas detect"
)


LITERALS = (
    *("1", "155190", "7706", "1", "17.00", "21168.23", "0.04", "0.02", "'N'", "'O'"),
    *("DATE '1996-03-13'", "DATE '1996-02-12'", "DATE '1996-03-22'", "'DELIVER IN PERSON'", "'TRUCK'"),
    "'slyly final deposits detect'",
)
"""One row, as SQL has it."""


def columns() -> str:
    """Return the columns with their types, as CREATE TABLE wants them."""
    return ", ".join(f"{name} {kind}" for name, (kind, _) in _COLUMNS.items())


def create_table(rows: int, table: str = "lineitem") -> str:
    """Return the statement that makes and fills a table."""
    values = ", ".join(f"({value})::{kind} AS {name}" for name, (kind, value) in _COLUMNS.items())
    hashes = ", ".join(f"(hash(i * 4 + {part}) >> 2)::BIGINT AS h{part}" for part in (1, 2, 3))
    return (
        f"CREATE TABLE {table} AS SELECT {values} FROM "
        f"(SELECT i, {hashes}, '{_WORDS}' AS words FROM range({rows}) AS numbers(i))"
    )
