#!/usr/bin/env bash
# Makes .venv-clients, for `make test-clients`: this project, its tests' tools, and the client libraries of the extra
# `clients`. They are large and want versions of their own, so they stay out of .venv.
# A second run that finds nothing to do takes a moment. PYTHON=… chooses another interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
STAMP=.venv-clients/.set-up

fingerprint() { "$PYTHON" --version | cat - pyproject.toml scripts/setup-clients.sh <(pwd) | sha256sum; }

if [[ $(cat "$STAMP" 2>/dev/null) == "$(fingerprint)" ]]; then
  exit
fi
echo 'Making .venv-clients: some minutes, and 500 MB.'
"$PYTHON" -m venv --clear .venv-clients
.venv-clients/bin/python -m pip --disable-pip-version-check --no-input install --quiet --root-user-action=ignore \
  -e '.[server,dev,clients]'
fingerprint >"$STAMP"
