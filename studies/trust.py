"""Measure how far the verdict can be trusted: docs/trust.md says what came out.

python studies/trust.py noise runs/STUDY ...   # what makes scores differ, measured in the answers of finished studies
python studies/trust.py calibration            # false verdicts, coverage and power over such noise: minutes
python studies/trust.py same --preset digits   # one method against itself, trained for real
python studies/trust.py figures                # from results/trust alone
"""

import sys

from divfeat.cli.trust import main

if __name__ == "__main__":
    sys.exit(main())
