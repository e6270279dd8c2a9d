"""A shop's own files to a model, a report and a page, in one command: ``unisrec start``, and ``unisrec update``."""
