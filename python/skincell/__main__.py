"""`python -m skincell ...` is the program `skincell`, with this Python for models of Keras and PyTorch."""

import sys

from ._program import run

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
