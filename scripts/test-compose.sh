#!/bin/bash
# Builds the containers of compose/, starts them with three workers, asks them as clients do, restarts and kills parts,
# starts everything in reverse order, and leaves nothing behind. Called by `make test-compose`.
#
# STANDIN_IMAGES   a program that builds the base images (python:3.13-slim, rabbitmq:4-management) on a machine with Docker
#                  but without an image registry; called first, with --docker. Where it is not set, the images must be on
#                  this machine or a registry must have them.
# KEEP_IMAGES=1    leaves the two images built here, for a look at them
set -euo pipefail
cd "$(dirname "$0")/.."

project=broker-controller-test-$$
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
url=http://127.0.0.1:$port
export CONTROLLER_PORT=$port CONTROLLER_ADDRESS=127.0.0.1

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'test-compose: %s\n' "$*" >&2; exit 1; }
compose() { docker compose --project-name "$project" --file compose/compose.yaml "$@"; }
ask() { python3 compose/ask.py "$url" "$@"; }

# What Docker still has of this project, one a line; empty when clean.
leftovers() {
  local label=label=com.docker.compose.project=$project
  docker ps --all --filter "$label" --format 'container {{.Names}}'
  docker volume ls --filter "$label" --format 'volume {{.Name}}'
  docker network ls --filter "$label" --format 'network {{.Name}}'
  [[ -n ${KEEP_IMAGES:-} ]] || docker image ls --filter "reference=$project-*" --format 'image {{.Repository}}'
}

clean_up() {
  local status=$? images=(--rmi local)
  trap - EXIT INT TERM
  if ((status != 0)); then
    say "failed (exit $status); the last lines of each container"
    compose ps --all || true
    compose logs --no-color --tail 80 || true
  fi
  [[ -z ${KEEP_IMAGES:-} ]] || images=()
  compose down --volumes --remove-orphans --timeout 20 "${images[@]}" >/dev/null 2>&1 || true
  if [[ -n $(leftovers) ]]; then
    printf 'test-compose: left behind:\n%s\n' "$(leftovers)" >&2
    status=1
  fi
  ((status != 0)) || say 'all well, nothing left behind'
  exit "$status"
}

ended_by_themselves() { # so many containers of a service ended with 0, as they do when nothing had to kill them
  local service=$1 expected=$2
  [[ $(compose ps --all --format '{{.ExitCode}}' "$service" | grep -cx 0) == "$expected" ]] \
    || fail "exit codes on SIGTERM: $(compose ps --all --format '{{.Name}} {{.ExitCode}}' "$service" | tr '\n' ' ')"
}

say 'what is needed'
[[ -z ${STANDIN_IMAGES:-} ]] || "$STANDIN_IMAGES" --docker
command -v docker >/dev/null || fail 'there is no docker command: install Docker with its Compose plugin'
docker compose version || fail 'docker has no compose plugin: install docker-compose-plugin'
docker info >/dev/null 2>&1 || fail 'no Docker daemon answers: start it, or add yourself to the group docker'
for image in python:3.13-slim rabbitmq:4-management; do
  docker image inspect "$image" >/dev/null 2>&1 || timeout 300 docker pull --quiet "$image" \
    || fail "the image $image is not on this machine and no registry answers with it"
done
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say 'build'
compose build --quiet

say 'RabbitMQ, the controller and three workers'
compose up --detach --scale worker=3
ask workers 3
ask answer

say 'RabbitMQ is restarted'
compose restart rabbitmq
ask workers 3
ask answer

say 'one worker is killed'
docker kill "$(compose ps --quiet worker | head -1)"
ask workers 2
ask answer

say 'SIGTERM in the middle of an answer: it is finished, then each program ends by itself'
ask --timeout 0 story &
story=$!
ask running
compose stop worker controller
wait "$story" || fail 'the answer that ran while the programs were told to stop was not finished'
ended_by_themselves controller 1
ended_by_themselves worker 2  # the third was killed

say 'everything again, in reverse order'
compose down --timeout 60
compose up --detach --no-deps --scale worker=3 worker
compose up --detach --no-deps controller
ask alive
compose up --detach --no-deps rabbitmq
ask workers 3
ask answer
