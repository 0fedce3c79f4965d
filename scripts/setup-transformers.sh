#!/usr/bin/env bash
# Makes .venv-transformers, for `make test-transformers`: this project, its tests' tools, torch and transformers. They are
# too large to be in everybody's .venv.
# A second run that finds nothing to do takes a moment. PYTHON=… chooses another interpreter.
#
# On Linux pip's usual torch is the one for CUDA, of some GB. To have the one for the CPU, tell pip where PyTorch keeps
# those, as its installation page says: set PIP_EXTRA_INDEX_URL.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
VENV=.venv-transformers
STAMP=$VENV/.set-up
TORCH='torch==2.13.0' # what these tests were written with: another one may draw other numbers for the same seed

fingerprint() { "$PYTHON" --version | cat - pyproject.toml scripts/setup-transformers.sh <(pwd) | sha256sum; }

if [[ $(cat "$STAMP" 2>/dev/null) == "$(fingerprint)" ]]; then
  exit
fi
echo "Making $VENV: some minutes, and 2 GB, or more with torch for CUDA."
"$PYTHON" -m venv --clear "$VENV"
pip=("$VENV/bin/python" -m pip --disable-pip-version-check --no-input install --quiet --root-user-action=ignore)
# First, so that nothing that wants torch chooses its version.
"${pip[@]}" "$TORCH"
"${pip[@]}" -e '.[server,transformers,dev]'
fingerprint >"$STAMP"
