#!/usr/bin/env bash
# Tests the engine `transformers` with tiny models on the CPU, in an environment of its own, .venv-transformers: torch is
# too large to be in everybody's. Arguments go to pytest. PYTHON=… chooses another interpreter.
#
# On Linux pip's usual torch is the one for CUDA, of some GB. To have the one for the CPU, tell pip where PyTorch keeps
# those, as its installation page says: set PIP_EXTRA_INDEX_URL.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
VENV=.venv-transformers
STAMP=$VENV/.set-up
TORCH='torch==2.13.0' # what these tests were written with: another one may draw other numbers for the same seed

fingerprint() { "$PYTHON" -c 'import sys; print(sys.version)' | cat - pyproject.toml "$0" <(pwd) | sha256sum; }

if [[ $(cat "$STAMP" 2>/dev/null) != "$(fingerprint)" ]]; then
  printf 'Making %s; torch makes that take a while.\n' "$VENV"
  rm -f "$STAMP"
  [[ -x $VENV/bin/pip ]] || "$PYTHON" -m venv --clear "$VENV"
  pip=("$VENV/bin/python" -m pip --disable-pip-version-check --no-input install --quiet)
  # First, so that nothing that wants torch chooses its version.
  "${pip[@]}" "$TORCH"
  "${pip[@]}" -e '.[server,transformers,dev]'
  fingerprint >"$STAMP"
fi
exec "$VENV/bin/python" -m pytest "${@:-tests/transformers}"
