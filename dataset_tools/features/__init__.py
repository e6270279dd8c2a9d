"""Text features: every item's text through a pre-trained encoder, one vector a row, as `NAME.feat1CLS`.

`items` reads the item file and `texts` what is encoded, `encoder` makes the vectors, `store` writes the file and its description, with `shards` and `ranks` for long runs, `vectors` does so with
vectors that were made elsewhere, and `command` is `python -m dataset_tools.features`.
"""

from dataset_tools.arguments import POOLINGS
from dataset_tools.features.encoder import TextEncoder
from dataset_tools.features.items import Fields, column_names
from dataset_tools.features.store import DTYPES, encode_dataset, recorded_columns
from dataset_tools.features.texts import EMPTY, drop_words, read_ids, read_texts
from dataset_tools.features.vectors import Columns, import_vectors, read_vectors

__all__ = [
    "DTYPES",
    "EMPTY",
    "POOLINGS",
    "Columns",
    "Fields",
    "TextEncoder",
    "column_names",
    "drop_words",
    "encode_dataset",
    "import_vectors",
    "read_ids",
    "read_texts",
    "read_vectors",
    "recorded_columns",
]
