"""Become a supervised child: drop privileges, ask to be stopped with the parent, then run the command.

Run as a file by a bare interpreter (`python -I -S exec_child.py ...`), between fork and exec. It is the place
for what must happen in the child itself: doing it in a `preexec_fn` would run Python between fork and exec of
a process that may have threads, and can hang there. Imports the standard library only and starts in ~10 ms.

Arguments: parent process id, signal to get when the parent dies, `uid:gid` or `-`, then the command.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def bound(*command: str, death_signal: int, user: str = "-") -> tuple[str, ...]:
    """What to start so that `command` gets `death_signal` when we die, even by `kill -9`.

    Start it from the main thread: the kernel means the starting thread when it says parent.
    """
    start = (sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(death_signal)), user)
    return (*start, *command)


def main(arguments: list[str]) -> int:
    """Replace this process by the command; returns only where that fails."""
    parent, death_signal, user, *command = arguments
    if user != "-":
        uid, gid = (int(part) for part in user.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        # After setuid: the kernel forgets the request when credentials change.
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
    if os.getppid() != int(parent):
        return 0  # the parent died before the request above; nobody would ever stop this child
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(
            f"Cannot run {command[0]!r}: {error.strerror}. Is it installed and executable?",
            file=sys.stderr,
        )
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
