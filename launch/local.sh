#!/usr/bin/env bash
# One machine: all its GPUs in one process, supervised in the background.
set -euo pipefail
# shellcheck source=launch/commands.sh
source "$(dirname "${BASH_SOURCE[0]}")/commands.sh"

usage() {
  cat <<'TEXT'
usage: launch/local.sh ACTION [--dry-run] [-- FLAGS OF MAIN...]

  start   the training under launch/supervise.sh, in the background
  logs    follows the log
  status  exit code 0 if it runs, 3 if not; with the end of the log
  stop    SIGTERM; waits until the checkpoint is saved

Settings (environment), for example: CONFIG=configs/b16.py WORKDIR=/data/b16 launch/local.sh start
  CONFIG        needed by start: configs/b16.py
  WORKDIR       needed by start: folder of checkpoints and metrics
  NAME          of the run (unitok); two runs at once need two names
  LOG_DIR       folder of NAME.log and NAME.pid (runs)
  PYTHON        (python)
  CLUSTER       main's --cluster (none)
  STOP_TIMEOUT  seconds that stop waits (600)
  MAX_CRASHES, PAUSE, PROGRESS_SECONDS  see launch/supervise.sh --help
TEXT
}

read_arguments "$@"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
NAME=${NAME:-unitok} LOG_DIR=${LOG_DIR:-runs} STOP_TIMEOUT=${STOP_TIMEOUT:-600}
need_name NAME 63
need_number STOP_TIMEOUT
need_tool ps procps
log=$LOG_DIR/$NAME.log pid_file=$LOG_DIR/$NAME.pid

# The time at which a process started; nothing if there is none.
started_at() {
  LC_ALL=C ps -o lstart= -p "$1" || true
}

# The supervisor's process id, or nothing: a pid that another process has by now does not count.
running() {
  local pid started=''
  [[ -s $pid_file ]] || return 0
  { read -r pid && read -r started; } <"$pid_file" || true
  [[ -z $started || $(started_at "$pid") != "$started" ]] || echo "$pid"
}

start() {
  need CONFIG configs/b16.py
  need WORKDIR /data/runs/b16
  train_command "${PYTHON:-python}" "${CLUSTER:-none}" "${flags[@]}"
  if [[ -n $dry_run ]]; then
    printf 'nohup %s >>%q 2>&1 </dev/null &\n' "$(quote launch/supervise.sh "${train[@]}")" "$log"
    return
  fi
  [[ -z $(running) ]] || die "$NAME already runs, process $(running); stop it first"
  need_tool "${train[0]}" "Python 3.11 or later"
  mkdir -p "$LOG_DIR"
  nohup launch/supervise.sh "${train[@]}" >>"$log" 2>&1 </dev/null &
  printf '%s\n%s\n' $! "$(started_at $!)" >"$pid_file"
  say "started $NAME, process $!; log: $log"
}

stop() {
  local pid waited=0
  pid=$(running)
  if [[ -n $dry_run ]]; then
    call kill -TERM "${pid:-PID}"
    return
  fi
  if [[ -z $pid ]]; then
    say "$NAME does not run"
    return
  fi
  kill -TERM "$pid"
  while [[ -n $(running) ]]; do
    ((waited < STOP_TIMEOUT)) || die "$NAME (process $pid) still saves after $waited s; see $log"
    sleep 1
    waited=$((waited + 1))
  done
  say "stopped $NAME; the same start resumes"
}

status() {
  local pid
  pid=$(running)
  [[ ! -e $log ]] || call tail -n 5 "$log"
  if [[ -z $pid && -z $dry_run ]]; then
    say "$NAME does not run"
    exit 3
  fi
  say "$NAME runs, process $pid"
}

case $action in
  start | stop | status) "$action" ;;
  logs) call tail -n 100 -F "$log" ;;
  '') die "no action: start, logs, status or stop" ;;
  *) die "unknown action $action: start, logs, status or stop" ;;
esac
