"""`python -m epvf` is the command line."""

from epvf.cli.main import console

if __name__ == "__main__":
    console()
