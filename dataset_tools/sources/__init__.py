"""Read the files that people have: dumps, tables and workbooks, in bounded memory and without losing a row in silence.

`lines` gives blocks of text, `dialect` says how a text is written, `delimited`, `json_lines` and `workbook` read their
kind of file, `tables` chooses among them, `columns` finds columns by name, and `times` reads dates.
"""

from dataset_tools.sources.columns import find_column, match_columns, plain_name
from dataset_tools.sources.delimited import Table, keep_rows, read_delimited
from dataset_tools.sources.json_lines import fields_of, read_json_lines
from dataset_tools.sources.lines import BadLines, Source, is_utf8
from dataset_tools.sources.tables import peek, read_table
from dataset_tools.sources.times import ISO_FORMATS, DateOrder, parse_times, with_times

__all__ = [
    "ISO_FORMATS",
    "BadLines",
    "DateOrder",
    "Source",
    "Table",
    "fields_of",
    "find_column",
    "is_utf8",
    "keep_rows",
    "match_columns",
    "parse_times",
    "peek",
    "plain_name",
    "read_delimited",
    "read_json_lines",
    "read_table",
    "with_times",
]
