#!/usr/bin/env bash
# Make the environment of a node: Python 3.11 and the packages of pyproject.toml at the versions of constraints.txt.
#
#   bash deploy/setup_node.sh FOLDER ENVIRONMENT
#
# FOLDER holds pyproject.toml and constraints.txt. Done once: a second call with the same two files ends at once. The package
# itself is not installed: it comes with each job. Shells of the node find the environment, and talk to Ray with its token.
set -euo pipefail
folder=$1 environment=$2

for_shells="export PATH=\"$environment/bin:\$PATH\" RAY_AUTH_MODE=token"  # `ray down` and `ray attach` call `ray` by its name
grep -qsxF "$for_shells" "$HOME/.bashrc" || echo "$for_shells" >>"$HOME/.bashrc"

wanted=$(cat "$folder/pyproject.toml" "$folder/constraints.txt" | sha256sum | cut -d' ' -f1)
stamp=$environment/.made-of
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
  echo "$environment has the wanted packages"
  exit 0
fi

rm -rf "$environment"
if command -v python3.11 >/dev/null && python3.11 -c 'import ensurepip, venv' 2>/dev/null; then
  python3.11 -m venv "$environment"
else  # uv fetches a Python of that version
  if ! command -v uv >/dev/null; then
    if ! python3 -m pip --version >/dev/null 2>&1; then
      sudo apt-get update -q && sudo apt-get install -yq --no-install-recommends python3-pip
    fi
    python3 -m pip install --quiet --user uv || python3 -m pip install --quiet --user --break-system-packages uv
    PATH=$HOME/.local/bin:$PATH
  fi
  uv venv --quiet --seed --python 3.11 "$environment"
fi

"$environment/bin/python" - "$folder/pyproject.toml" >"$environment/requirements.txt" <<'P'
import sys
import tomllib

with open(sys.argv[1], "rb") as file:
    print(*tomllib.load(file)["project"]["dependencies"], sep="\n")
P
"$environment/bin/pip" install --quiet --constraint "$folder/constraints.txt" --requirement "$environment/requirements.txt"
echo "$wanted" >"$stamp"
