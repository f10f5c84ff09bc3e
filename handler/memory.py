"""Memory that is kept for the next layer, instead of being given back and taken again."""

import ctypes

LARGEST_KEPT = 32 * 2**20  # bytes; the most that every glibc takes
LEAST_RETURNED = 256 * 2**20  # bytes
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep() -> None:
    """Have glibc keep what a layer frees; another C library does as it likes.

    It would give more than 128 kB back at once. The kernel clears each page again, which may take as long as computing.
    """
    if set_option := getattr(ctypes.CDLL(None), "mallopt", None):
        set_option(M_MMAP_THRESHOLD, LARGEST_KEPT)
        set_option(M_TRIM_THRESHOLD, LEAST_RETURNED)
