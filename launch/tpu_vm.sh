#!/usr/bin/env bash
# Cloud TPU VMs: from nothing to a training on every worker of a slice.
set -euo pipefail
# shellcheck source=launch/commands.sh
source "$(dirname "${BASH_SOURCE[0]}")/commands.sh"

usage() {
  cat <<'TEXT'
usage: launch/tpu_vm.sh ACTION [--queued] [--spot] [--dry-run] [-- FLAGS OF MAIN...]

  create  the TPU; with --queued a request that waits for capacity
  sync    the working tree to all workers, without .git, environments, runs and weights
  setup   Python and the packages on all workers
  run     the training on all workers, detached and supervised (launch/supervise.sh --help)
  logs    follows worker 0's log
  status  of the TPU and of every worker; not 0 if one worker does not run
  resume  whatever is missing of create, sync, setup and run; a preempted TPU is deleted and made again
  stop    SIGTERM to the training on all workers; waits until the checkpoint is saved
  delete  the TPU

--queued and --spot belong to every action of a TPU that was made with them (or: export QUEUED=1 SPOT=1).
A failing gcloud ends the script with gcloud's exit code; later steps do not run.

Settings (environment):
  NAME            of the TPU
  ZONE            us-west4-a
  PROJECT         (gcloud's own default)
  ACCELERATOR     needed by create, resume: v5litepod-256
  VERSION         needed by create, resume: the runtime, v2-alpha-tpuv5-lite
  CONFIG          needed by run, resume: configs/b16.py
  WORKDIR         needed by run, resume: gs://bucket/b16, or a disk that all workers share
  PYTHON_VERSION  of the workers' environment (3.12)
  POLL            seconds between two looks at a queued request (60)
  MAX_CRASHES, PAUSE, PROGRESS_SECONDS, STOP_TIMEOUT  see launch/local.sh --help
TEXT
}

switches=(--queued=QUEUED --spot=SPOT)
read_arguments "$@"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON_VERSION=${PYTHON_VERSION:-3.12} POLL=${POLL:-60}
need_switch QUEUED
need_switch SPOT

where=()
tpu() { # GROUP VERB ARGUMENTS...
  call gcloud compute tpus "$1" "$2" "${@:3}" "${where[@]}" --quiet
}

on_workers() { # WORKER COMMAND
  tpu tpu-vm ssh "$NAME" "--worker=$1" "--command=$2"
}

# Every worker runs launch/local.sh, from ~/unitok_jax/code.
local_sh() { # ACTION FLAGS...
  local setting settings=(NAME="$NAME" LOG_DIR=../runs)
  for setting in MAX_CRASHES PAUSE PROGRESS_SECONDS STOP_TIMEOUT; do
    [[ -z ${!setting:-} ]] || settings+=("$setting=${!setting}")
  done
  if [[ $1 == start ]]; then
    settings+=(CLUSTER=tpu PYTHON=../venv/bin/python CONFIG="$CONFIG" WORKDIR="$WORKDIR")
  fi
  printf 'cd unitok_jax/code && %s' "$(quote env "${settings[@]}" launch/local.sh "$@")"
}

need_tpu_settings() {
  need ACCELERATOR v5litepod-256
  need VERSION v2-alpha-tpuv5-lite
}

need_run_settings() {
  need CONFIG configs/b16.py
  need WORKDIR gs://bucket/b16
  [[ $WORKDIR == gs://* || $WORKDIR == /* ]] ||
    die "WORKDIR=$WORKDIR lies on each worker alone; give gs://bucket/folder or a shared disk's path"
}

create() {
  need_tpu_settings
  if [[ -n ${QUEUED:-} ]]; then
    tpu queued-resources create "$NAME" "--node-id=$NAME" "--accelerator-type=$ACCELERATOR" \
      "--runtime-version=$VERSION" ${SPOT:+--spot}
  else
    tpu tpu-vm create "$NAME" "--accelerator-type=$ACCELERATOR" "--version=$VERSION" ${SPOT:+--spot}
  fi
}

sync() {
  local archive=runs/$NAME.tgz
  call mkdir -p runs
  call tar --create --gzip "--file=$archive" --exclude=./.git --exclude='./.venv*' --exclude=./runs \
    --exclude=./demo --exclude=__pycache__ --exclude='*.egg-info' --exclude='*.safetensors' \
    --exclude='*.pth' .
  tpu tpu-vm scp "$archive" "$NAME:unitok_jax.tgz" --worker=all
  # A process must not find other files at its next restart than the processes beside it.
  on_workers all "set -e; if [ -x unitok_jax/code/launch/local.sh ] && ( $(local_sh status) ) \
>/dev/null 2>&1; then echo 'the training runs here: stop it before sync' >&2; exit 2; fi; \
mkdir -p unitok_jax/runs; rm -rf unitok_jax/code; mkdir unitok_jax/code; \
tar --extract --gzip --file=unitok_jax.tgz --directory=unitok_jax/code"
}

setup() {
  # uv brings the Python that the packages want, whatever the image has.
  on_workers all "set -e; cd unitok_jax; python3 -m pip install --quiet --upgrade --target=uv uv; \
uv/bin/uv venv --quiet --allow-existing --python $(quote "$PYTHON_VERSION") venv; \
uv/bin/uv pip install --quiet --python venv/bin/python --editable './code[tpu]'"
}

run() {
  need_run_settings
  on_workers all "$(local_sh start -- "${flags[@]}")"
}

stop() {
  on_workers all "$(local_sh stop)"
}

# The state in `state`; empty if there is no such thing. list, unlike describe, then still succeeds.
look() { # GROUP FORMAT
  state=''
  if [[ -n $dry_run ]]; then
    tpu "$1" list "--filter=name~(^|/)$NAME\$" "--format=value($2)"
  else
    state=$(tpu "$1" list "--filter=name~(^|/)$NAME\$" "--format=value($2)")
  fi
}

wait_for_queue() {
  while :; do
    look queued-resources state.state
    case ${state:-$dry_run} in
      ACTIVE | 1) break ;;
      CREATING | ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING)
        say "$NAME: $state; looking again in $POLL s"
        sleep "$POLL"
        ;;
      *) die "$NAME: the request is ${state:-gone}; resume again, later, makes a new one" ;;
    esac
  done
}

# A request that is there and ACTIVE; `made` is 1 if it had to be made.
resume_request() {
  look queued-resources state.state
  if [[ -z $state || $state == SUSPENDED || $state == FAILED ]]; then
    [[ -z $state ]] || delete
    create
    made=1
  fi
  wait_for_queue
}

resume() {
  local made=''
  need_tpu_settings
  need_run_settings
  [[ -z ${QUEUED:-} ]] || resume_request
  [[ -n $made ]] || look tpu-vm state
  case ${made:-$state} in
    1) ;;
    READY)
      if on_workers all "$(local_sh status)"; then
        say "$NAME runs on all workers: nothing to resume"
        return
      fi
      on_workers all "[ ! -x unitok_jax/code/launch/local.sh ] || { $(local_sh stop); }"
      ;;
    STOPPED) tpu tpu-vm start "$NAME" ;;
    '' | PREEMPTED | TERMINATED)
      [[ -z $state && -z ${QUEUED:-} ]] || delete
      create
      [[ -z ${QUEUED:-} ]] || wait_for_queue
      ;;
    *) die "$NAME is $state; resume again when that is over" ;;
  esac
  sync
  setup
  run
}

status() {
  [[ -z ${QUEUED:-} ]] ||
    tpu queued-resources describe "$NAME" '--format=value(state.state)'
  tpu tpu-vm describe "$NAME" '--format=value(state,health)'
  on_workers all "$(local_sh status)"
}

delete() {
  if [[ -n ${QUEUED:-} ]]; then
    tpu queued-resources delete "$NAME" --force
  else
    tpu tpu-vm delete "$NAME"
  fi
}

case $action in
  create | sync | setup | run | logs | status | resume | stop | delete) ;;
  '') die "no action; --help lists them" ;;
  *) die "unknown action $action; --help lists them" ;;
esac
need NAME unitok-b16
need ZONE us-west4-a
need_name NAME 40
need_number POLL
where=("--zone=$ZONE" ${PROJECT:+"--project=$PROJECT"})
need_tool gcloud "Install the Google Cloud CLI"
case $action in
  logs) on_workers 0 "$(local_sh logs)" ;;
  *) "$action" ;;
esac
