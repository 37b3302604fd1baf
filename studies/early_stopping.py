"""Try rules of early stopping on real learning curves: docs/early-stopping.md says what came out.

# trains, minutes:
python studies/early_stopping.py record --preset digits --set train.epochs=27 --set 'probe.strengths=[1.0]' --trials 60
# simulated searches over all recorded curves, and the page's tables, minutes:
python studies/early_stopping.py compare
"""

import sys

from divfeat.cli.early_stopping import main

if __name__ == "__main__":
    sys.exit(main())
