"""Which version this is, from the installed package."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("blindharmony")
except PackageNotFoundError:  # running from a checkout that was never installed
    VERSION = "0+unknown"
