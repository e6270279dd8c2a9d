"""Pre-training on mixed domains (UniSRec, section 3.3 of the paper)."""
