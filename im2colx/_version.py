"""The version, as the installed package's metadata has it."""

from importlib import metadata

try:
    __version__ = metadata.version("im2colx")
except metadata.PackageNotFoundError:  # run from a source tree that was built in place and never installed
    __version__ = "0+unknown"
