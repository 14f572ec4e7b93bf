"""`python -m benchmarks`, from the top of a clone, is `clstm bench --full`; further options are passed on."""

import sys

from clstm.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "--full", *sys.argv[1:]]))
