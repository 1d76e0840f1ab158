"""The recipes, a file for an algorithm. Importing this imports them all, and so declares them."""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
