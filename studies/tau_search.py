"""Search cone thresholds of HingeCE and say whether they help.

    python studies/tau_search.py                      # digits, minutes on a laptop
    python studies/tau_search.py --preset tin20-100-small
    python studies/tau_search.py --help

The protocol, top to bottom: freeze learning rate and weight decay on cross-entropy's validation accuracy; measure the
noise floor; search thresholds on validation with one seed; select among the best on further seeds; measure the grid that
says which thresholds are as good as the best; confirm the winner and the baselines on new seeds on the test set, once;
print the verdict.
"""

import sys

from divfeat.cli.tau_search import main

if __name__ == "__main__":
    sys.exit(main())
