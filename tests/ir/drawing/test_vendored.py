"""The libraries that pages hold are those of the list, with their licences."""

import hashlib
import json
from pathlib import Path

import compiler.ir.drawing

VENDOR = Path(compiler.ir.drawing.__file__).parent / "assets" / "vendor"
LIBRARIES = json.loads((VENDOR / "manifest.json").read_text())


def test_every_file_is_listed_and_unchanged():
    listed = {library["file"]: library["sha256"] for library in LIBRARIES}
    assert {name: hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() for name in listed} == listed
    assert {path.name for path in VENDOR.iterdir()} == {
        *listed,
        *(library["license_file"] for library in LIBRARIES),
        "manifest.json",
    }


def test_every_licence_is_permissive_and_there():
    assert {library["license"] for library in LIBRARIES} <= {"MIT", "ISC", "Apache-2.0", "BSD-3-Clause"}
    for library in LIBRARIES:
        assert "Copyright" in (VENDOR / library["license_file"]).read_text()
