"""Turn raw dumps (Amazon, Online Retail, MovieLens, anyone's CSV) into RecBole atomic files and text features."""

__version__ = "0.1.0"
