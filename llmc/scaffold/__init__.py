"""`llmc new`: packages to start from, one template for each kind of plug-in."""

from llmc.scaffold.package import KINDS, NewPackage, new_package

__all__ = ["KINDS", "NewPackage", "new_package"]
