#!/usr/bin/env bash
# Start the watchdog of a node in the background, in place of one that runs.
#
#   bash deploy/start_watchdog.sh ENVIRONMENT FLAGS OF deploy/watchdog.py ...
set -euo pipefail
environment=$1
shift
folder=$(dirname "$(realpath "$0")")
setsid nohup "$environment/bin/python" "$folder/watchdog.py" "$@" >>"$HOME/divfeat-watchdog.log" 2>&1 </dev/null &
