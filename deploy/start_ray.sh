#!/usr/bin/env bash
# Start Ray on a node anew, with token authentication and without telemetry.
#
#   bash deploy/start_ray.sh ENVIRONMENT ray start FLAGS ...
#
# (Ray looks for these words in the commands of a cluster's file.)
# The token is read from ~/.ray/auth_token by Ray itself: it is in no argument and in no variable.
set -euo pipefail
environment=$1
shift
if [ ! -s "$HOME/.ray/auth_token" ]; then
  echo "error: ~/.ray/auth_token is missing: make it with 'ray get-auth-token --generate' before 'ray up'" >&2
  exit 1
fi
chmod 600 "$HOME/.ray/auth_token"
export PATH="$environment/bin:$PATH" RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
ray stop
ulimit -n 65536 || true
exec "$@"
