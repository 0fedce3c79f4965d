#!/usr/bin/env bash
# Makes .venv-bench with the gateways that `make bench` compares with, the extra `bench`. Nothing of ours is in there.
# A second run that finds nothing to do takes a moment. PYTHON=… chooses another interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
STAMP=.venv-bench/.set-up

fingerprint() { "$PYTHON" --version | cat - pyproject.toml "$0" <(pwd) | sha256sum; }

if [[ $(cat "$STAMP" 2>/dev/null) == "$(fingerprint)" ]]; then
  exit
fi
echo 'Making .venv-bench: a minute or two, and 700 MB.'
"$PYTHON" -m venv --clear .venv-bench
# The versions are those of pyproject.toml; they are programs beside us, and their dependencies are not to meet ours.
"$PYTHON" - <<'END' >.venv-bench/requirements.txt
import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["bench"], sep="\n")
END
.venv-bench/bin/python -m pip --disable-pip-version-check --no-input install --quiet --root-user-action=ignore \
  --requirement .venv-bench/requirements.txt
fingerprint >"$STAMP"
