"""Sequences, text features, batches. Only `dataset` knows RecBole; the rest is plain numpy and torch."""
