"""The tables over a tree of classes: cones at their searched thresholds against HAFrame, its ablation and the methods beside it.

    python studies/hierarchy_table.py                                          # digits below five groups, on a laptop
    python studies/hierarchy_table.py --presets tin100-hierarchy --gpus-per-worker 1
    python studies/hierarchy_table.py --set protocol.confirm_seeds=10 --publish results/hierarchy
    python studies/hierarchy_table.py --help

A preset is a study by the protocol of tau_search.py. A row is a method on new seeds on the test set, last epoch: accuracy of
classes and of each level above, severity and hierarchical distance of its mistakes, collapse to its axes, linear probes, and
the paired difference to cross-entropy on the plain network.
"""

import sys

from divfeat.cli.hierarchy_table import main

if __name__ == "__main__":
    sys.exit(main())
