#!/usr/bin/env bash
# Makes .venv-fastchat with FastChat's own programs, for `make test-fastchat`. Nothing of ours is in there.
# A second run that finds nothing to do takes a moment. PYTHON=… chooses another interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
FASTCHAT='fschat==0.2.36'
REQUIREMENTS=tests/fastchat/requirements.txt
STAMP=.venv-fastchat/.set-up

fingerprint() {
  { "$PYTHON" -c 'import sys; print(sys.version, sys.base_prefix)' && cat "$REQUIREMENTS" "$0" && pwd; } | sha256sum
}

if [[ $(cat "$STAMP" 2>/dev/null) == "$(fingerprint)" ]]; then
  exit
fi
echo 'Making .venv-fastchat with FastChat and what its servers import'
"$PYTHON" -m venv --clear .venv-fastchat
pip=(.venv-fastchat/bin/python -m pip --quiet --disable-pip-version-check --no-input install)
"${pip[@]}" --requirement "$REQUIREMENTS"
# Its own list would bring a terminal's and a browser's front end.
"${pip[@]}" --no-deps "$FASTCHAT"
fingerprint >"$STAMP"
