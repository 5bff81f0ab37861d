#!/usr/bin/env bash
# Runs a command until it is done: the loop that every launcher puts around the training.
set -euo pipefail
# shellcheck source=launch/commands.sh
source "$(dirname "${BASH_SOURCE[0]}")/commands.sh"

usage() {
  cat <<'TEXT'
usage: launch/supervise.sh [--dry-run] COMMAND [ARGUMENTS...]

Runs COMMAND and, by its exit code,
  0      is done: exits with 0
  2      stops: the configuration or the input is wrong and would be wrong again
  75     was preempted and has saved: the same command again, not counted as a crash
  130    stops: a person pressed Ctrl-C in it
  other  has crashed: the same command again

TERM, INT and HUP reach COMMAND as TERM. After one of them nothing is started again: the exit code is
COMMAND's, 75 if it saved or was not running. The second INT (Ctrl-C) kills COMMAND.

Settings (environment):
  MAX_CRASHES       give up after so many crashes in a row, with the last one's exit code (10)
  PAUSE             seconds between two runs (10)
  PROGRESS_SECONDS  a run that lasted so long has made progress: the count starts again (1800)
TEXT
}

case ${1:-} in
  --help) usage && exit 0 ;;
  --dry-run) dry_run=1 && shift ;;
esac
MAX_CRASHES=${MAX_CRASHES:-10} PAUSE=${PAUSE:-10} PROGRESS_SECONDS=${PROGRESS_SECONDS:-1800}
need_number MAX_CRASHES
need_number PROGRESS_SECONDS
[[ $PAUSE =~ ^[0-9]+(\.[0-9]+)?$ ]] || die "PAUSE=$PAUSE is no number of seconds"
(($#)) || die "no command; for example: launch/supervise.sh python -m unitok_jax.main --config=..."
if [[ -n $dry_run ]]; then
  quote "$@"
  exit 0
fi
command -v "$1" >/dev/null || die "$1 is no command on this machine"

forward_signals
crashes=0
while :; do
  started=$SECONDS
  run_child "$@"
  lasted=$((SECONDS - started))
  if [[ -n $stopping || $status == 0 || $status == 2 || $status == 130 ]]; then
    break
  elif [[ $status == 75 ]]; then
    crashes=0
    reason="preempted after $lasted s"
  else
    ((lasted < PROGRESS_SECONDS)) || crashes=0
    crashes=$((crashes + 1))
    reason="exit $status after $lasted s, crash $crashes of $MAX_CRASHES in a row"
    if ((crashes >= MAX_CRASHES)); then
      say "$(date -u +%FT%TZ) $reason: giving up"
      exit "$status"
    fi
  fi
  say "$(date -u +%FT%TZ) $reason: again in $PAUSE s"
  run_child sleep "$PAUSE"
  if [[ -n $stopping ]]; then
    status=75
    break
  fi
done
say "$(date -u +%FT%TZ) ended with exit $status"
exit "$status"
