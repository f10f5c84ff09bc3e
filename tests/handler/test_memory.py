"""Memory that one layer frees serves the next one."""

import subprocess
import sys

FAULTS = """
import resource, sys
import numpy as np
from handler import memory

def layers():
    for _ in range(100):
        first = np.full(2**18, 1.0, np.float32)  # 1 MB, too little for a huge page
        second = first + 1

if sys.argv[1] == "keep":
    memory.keep()
layers()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
layers()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    command = [sys.executable, "-c", FAULTS, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_the_kernel_clears_the_pages_of_a_layer_once() -> None:
    assert 10 * faults("keep") < faults("give back")
