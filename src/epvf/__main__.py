"""`python -m epvf`, and the `epvf` script: the command line."""

# signal itself takes a while to import
import _signal  # type: ignore[import-not-found]
import os

if _signal.getsignal(_signal.SIGINT) is not _signal.SIG_IGN:
    # until the command line minds signals itself, a Ctrl-C ends the program without a word
    _signal.signal(_signal.SIGINT, lambda number, frame: os._exit(128 + number))

from epvf.cli.main import console

if __name__ == "__main__":
    console()
