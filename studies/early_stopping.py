"""Try rules of early stopping on real learning curves: docs/early-stopping.md says what came out.

python studies/early_stopping.py record --preset digits --set train.epochs=27 --trials 60   # trains: minutes
"""

import sys

from divfeat.cli.early_stopping import main

if __name__ == "__main__":
    sys.exit(main())
