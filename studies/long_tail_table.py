"""The long-tail table: HingeCE at its searched thresholds against every baseline, on one or several data sets.

    python studies/long_tail_table.py                                     # digits with a long tail, on a laptop
    python studies/long_tail_table.py --presets cifar10-lt cifar100-lt --gpus-per-worker 0.25
    python studies/long_tail_table.py --help

A column is a study by the protocol of tau_search.py, in which every baseline with numbers of its own is searched on
validation with as many trials as the thresholds; a row is a method on new seeds on the test set: mean and standard
deviation, last epoch, by class group, and the paired difference to CE+ETF.
"""

import sys

from divfeat.cli.long_tail_table import main

if __name__ == "__main__":
    sys.exit(main())
