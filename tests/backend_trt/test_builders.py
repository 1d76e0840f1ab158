"""Builders of several threads do not wait for one another forever."""

import subprocess
import sys

import pytest

pytest.importorskip("tensorrt_rtx")

# Without the lock these threads stop within seconds. In a process of its own, for one of them holds Python's lock then.
PROGRAM = """
from concurrent.futures import ThreadPoolExecutor
from compiler.backend_trt.builders import Builders
from compiler.trt_network.messages import NO_GPU, Messages
from compiler.trt_network.library import load_library

trt = load_library("tensorrt-rtx").trt

def work(number):
    for _ in range(1500):
        with Builders() as builders:
            assert builders.make(trt, Messages(trt, ignored=NO_GPU).logger).create_network(0) is not None

with ThreadPoolExecutor(4) as threads:
    list(threads.map(work, range(4)))
"""


def test_threads_make_and_drop_builders():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


# The second builder's logger, if it may, collects the first builder, which needs a lock that TensorRT holds.
COLLECTING = """
import gc
from compiler.backend_trt.builders import Builders
from compiler.trt_network.library import load_library

trt = load_library("tensorrt-rtx").trt
gc.set_threshold(1_000_000)

class Logger(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)

    def log(self, severity, message):
        if gc.isenabled():
            gc.collect()

for _ in range(2):
    builders = Builders()
    ring = [builders.make(trt, Logger())]
    ring.append(ring)
    del ring, builders
print(gc.isenabled())
"""


def test_builders_are_not_collected_while_one_is_made():
    done = subprocess.run([sys.executable, "-c", COLLECTING], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "True\n", done.stderr
