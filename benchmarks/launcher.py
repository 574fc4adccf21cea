"""Run one command and print what it took as JSON: ``python -I -S launcher.py ERRORS COMMAND…``.

A program of its own, and a small one: until a child has called exec, the kernel counts its parent's memory as the child's, so
whoever starts what is measured must be smaller than that. Imports nothing but what the interpreter has loaded anyway.
"""

import os
import sys
import time


def worked() -> float:
    """Seconds that the processors have worked for anybody; 0 where there is no /proc."""
    try:
        with open("/proc/stat") as stat:  # noqa: PTH123  (pathlib is not loaded, and large)
            user, nice, system, _idle, _wait, *rest = map(int, stat.readline().split()[1:9])
    except OSError:
        return 0.0
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def main(errors: str, command: list[str]) -> None:
    """Wait for ``command`` and all its children that it waits for."""
    into = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
    ]
    before, start = worked(), time.perf_counter()
    child = os.posix_spawnp(command[0], command, os.environ, file_actions=into)
    _, status, used = os.wait4(child, 0)
    wall = time.perf_counter() - start
    everybody = worked() - before
    cpu = used.ru_utime + used.ru_stime
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    code = os.waitstatus_to_exitcode(status)
    print(
        f'{{"wall": {wall:.6f}, "cpu": {cpu:.6f}, "rss": {used.ru_maxrss * unit / 2**20:.3f}, '
        f'"others": {max(everybody - cpu, 0.0):.3f}, "code": {code}}}'
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
