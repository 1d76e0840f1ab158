"""PNG pictures of SVG, by what is installed: the package cairosvg, or a browser that runs without a window."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from importlib import import_module
from pathlib import Path

from compiler.errors import TargetError

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
_SECONDS = 60
_HINT = 'install a converter: pip install "llmc[png]"; or Chromium; or write the picture as SVG: -o FILE.svg'


def png(svg: str) -> bytes:
    """The picture in light colours.

    Raises:
        TargetError: if nothing is installed that can make it, or that fails.
    """
    try:
        cairosvg = import_module("cairosvg")
    except (ImportError, OSError):  # OSError: the package is there, but not the library that it binds
        return _by_browser(svg)
    made: bytes = cairosvg.svg2png(bytestring=svg.encode(), scale=2)
    return made


def _by_browser(svg: str) -> bytes:
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        raise TargetError("nothing on this machine can make a PNG of a picture", hint=_HINT)
    size = re.search(r'<svg [^>]*?width="([\d.]+)" height="([\d.]+)"', svg)
    width, height = (round(float(number) + 0.5) for number in size.groups()) if size else (1200, 900)
    with tempfile.TemporaryDirectory(prefix="llmc-png-", ignore_cleanup_errors=True) as folder:
        page, picture = Path(folder) / "picture.html", Path(folder) / "picture.png"
        page.write_text(f'<!doctype html><meta charset="utf-8"><body style="margin:0">{svg}', encoding="utf-8")
        command = [browser, "--headless=new", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        command += ["--no-sandbox"] if _is_root() else []
        command += [
            f"--user-data-dir={folder}/profile",
            "--force-device-scale-factor=2",
            "--blink-settings=preferredColorScheme=1",
        ]
        command += [f"--window-size={max(width, 500)},{height}", f"--screenshot={picture}", page.as_uri()]
        try:
            subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise TargetError(f"{browser} made no picture: {error}", hint=_HINT) from None
        if not picture.exists():
            raise TargetError(f"{browser} made no picture", hint=_HINT)
        return picture.read_bytes()


def _is_root() -> bool:
    """Whether the user is root, for whom Chromium has no sandbox."""
    return hasattr(os, "geteuid") and os.geteuid() == 0
