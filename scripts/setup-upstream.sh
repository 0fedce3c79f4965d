#!/usr/bin/env bash
# Makes .venv-fastchat or .venv-llava with the programs that this project takes the place of, for `make test-fastchat` and
# `make test-llava`. Nothing of ours is in there.
# A second run that finds nothing to do takes a moment. PYTHON=… chooses another interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

NAME=$1
case $NAME in
  fastchat) PACKAGE='fschat==0.2.36' ;;
  llava) PACKAGE='llava-torch==1.2.2.post1' ;;
  *) echo "$0: it is fastchat or llava, not $NAME" >&2 && exit 2 ;;
esac
PYTHON=${PYTHON:-python3}
VENV=.venv-$NAME
REQUIREMENTS=tests/upstream/$NAME/requirements.txt
STAMP=$VENV/.set-up

fingerprint() {
  { "$PYTHON" -c 'import sys; print(sys.version, sys.base_prefix)' && cat "$REQUIREMENTS" "$0" && pwd; } | sha256sum
}

if [[ $(cat "$STAMP" 2>/dev/null) == "$(fingerprint)" ]]; then
  exit
fi
echo "Making $VENV with $PACKAGE and what its servers import"
"$PYTHON" -m venv --clear "$VENV"
pip=("$VENV/bin/python" -m pip --quiet --disable-pip-version-check --no-input install)
"${pip[@]}" --requirement "$REQUIREMENTS"
# Its own list would bring torch, and all that a model needs.
"${pip[@]}" --no-deps "$PACKAGE"
fingerprint >"$STAMP"
