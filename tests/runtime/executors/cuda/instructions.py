"""What compiled kernels do with registers that matrix instructions still read."""

import re
import subprocess
from pathlib import Path

import triton

_PLAIN = ("ST", "LDGSTS", "BAR", "RED", "ATOM", "DEPBAR", "EXIT", "ISETP", "R2UR")
"""Instructions whose first operand is no register that is written."""
_READ = 4
"""Registers of a thread that a matrix instruction on Hopper reads its first operand from, if that is in registers."""


def _lines(cubin: Path) -> list[str]:
    command = [triton.knobs.nvidia.nvdisasm.path, "-c", str(cubin)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [line for each in text.split("\n") if (line := re.sub(r"/\*.*?\*/", "", each).strip())]


def overwritten(cubin: Path) -> tuple[int, list[str]]:
    """How many matrix instructions read registers, and the instructions that write such registers before they ended.

    Each branch back is taken once, others are not.
    """
    lines = _lines(cubin)
    labels = {line[:-1]: at for at, line in enumerate(lines) if line.endswith(":")}
    running: list[set[int]] = []
    group: set[int] = set()
    found: list[str] = []
    taken: set[int] = set()
    count, at = 0, 0
    while at < len(lines):
        match = re.match(r"(?:@!?U?P\w+\s+)?([A-Z0-9_.]+)\s*(.*?)\s*;", lines[at])
        name, operands = match.groups() if match else ("", "")
        words = [word.strip() for word in operands.split(",")]
        if re.match(r"[HIQ]GMMA", name):
            first = re.fullmatch(r"R(\d+)", words[1])
            if first:
                count += at not in taken
                group |= set(range(int(first[1]), int(first[1]) + _READ))
            if "gsb0" in words:
                running.append(group)
                group = set()
        elif name.startswith("WARPGROUP.DEPBAR"):
            left = int(words[1], 16)
            running = running[len(running) - left :] if left else []
        elif name.startswith("BRA"):
            target = re.search(r"\((\.L_\w+)\)", operands)
            if target and labels.get(target[1], at) < at and at not in taken:
                taken.add(at)
                at = labels[target[1]]
        elif name and not name.startswith(_PLAIN) and (result := re.match(r"R(\d+)", words[0])):
            width = 4 if ".128" in name else 2 if ".64" in name or ".WIDE" in name else 1
            if set(range(int(result[1]), int(result[1]) + width)) & group.union(*running):
                found.append(lines[at])
        at += 1
    return count, found
