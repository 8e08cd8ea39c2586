"""Call an augmentation hook: rows come in at standard input, what it made goes out at standard output, as JSON.

What the hook prints goes to standard error, so that it cannot be taken for rows.
"""

import sys
from contextlib import redirect_stdout

import orjson

from retrain.augment import installed


def main() -> None:
    """Read, call, write; an exception of the hook ends the process with its traceback."""
    asked = orjson.loads(sys.stdin.buffer.read())
    with redirect_stdout(sys.stderr):
        hook = installed(asked.pop("hook")).load()
        made = list(hook(asked.pop("rows"), **asked))
    sys.stdout.buffer.write(orjson.dumps(made))


if __name__ == "__main__":
    main()
