"""The project's one kind of expected error."""

from dataset_tools.common import UserError

__all__ = ["UserError"]
