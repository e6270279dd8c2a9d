"""Layers, losses and recommenders. Only `base`, `unisrec` and `sasrec` know RecBole; the rest is plain torch."""
