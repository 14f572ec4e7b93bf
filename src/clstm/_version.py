"""The version, once: the build reads it here, and files name it."""

__version__ = "0.2.0.dev0"
