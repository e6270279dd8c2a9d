"""UniSRec for RecBole. Importing this package lets RecBole find ``UniSRec`` by name, like any of its own models."""

from dataset_tools import __version__
from recbole_unisrec import compat

compat.apply()

from recbole_unisrec import registry  # noqa: E402 - RecBole imports only after the gaps are closed

registry.register()

from recbole_unisrec.errors import UserError  # noqa: E402
from recbole_unisrec.model.unisrec import UniSRec  # noqa: E402

__all__ = ["UniSRec", "UserError", "__version__"]
