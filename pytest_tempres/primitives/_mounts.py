"""Which mount does an open file lie on?"""

from __future__ import annotations

import os
import sys

from pytest_tempres.primitives._system import System

__all__ = ["mount_of"]


def mount_of(descriptor: int) -> tuple[int, bytes]:
    """Return what tells the mount that *descriptor* is open on from all others.

    A bind mount may lie on the same device as what is around it, so Linux is asked for the number
    of the mount too (``proc_pid_fdinfo(5)``); where it can't be told, the device alone must do.

    :raises OSError: The descriptor is not open.
    """
    device = System.fstat(descriptor).st_dev
    if sys.platform != "linux":
        return device, b""
    try:
        info = System.open(f"/proc/self/fdinfo/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return device, b""
    try:
        return device, System.read(info, 1024).partition(b"mnt_id:")[2].partition(b"\n")[0]
    finally:
        System.close(info)
