"""Train methods at fixed settings over seeds on one device, without Ray and MLflow, and write a table.

    python studies/fixed_table.py --preset digits-lt --method ce_etf --method ldam_drw --method logit_adjustment \
        --method gate58 name=hinge_ce release=gate 'thresholds={family: global, angles: {tau: 1.01}}' --out runs/fixed
    python studies/fixed_table.py --help

Nothing is searched or chosen: for a first look at a recipe at full length, on one GPU. Rows are written as they are won.
"""

import sys

from divfeat.cli.fixed_table import main

if __name__ == "__main__":
    sys.exit(main())
