# shellcheck shell=bash
# What the launchers share: errors, settings, dry runs, a child that gets the signals. To be sourced.

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "${0##*/}: error: bash $BASH_VERSION is too old; 4.4 or later is needed" >&2
  exit 2
fi

# An error inside $( ) ends the script too.
shopt -s inherit_errexit
dry_run=''

# die MESSAGE: one line to stderr; exit 2 means that the same command would fail again.
die() {
  printf '%s: error: %s\n' "${0##*/}" "$1" >&2
  exit 2
}

# say MESSAGE: one line to stderr, so that stdout holds nothing but commands in a dry run.
say() {
  printf '%s: %s\n' "${0##*/}" "$1" >&2
}

# need_tool TOOL PAGE: TOOL is on PATH; PAGE names what to look up to install it.
need_tool() {
  [[ -n $dry_run ]] || command -v "$1" >/dev/null ||
    die "$1 is not on PATH; to install it look up \"$2\""
}

# need VARIABLE EXAMPLE: the environment variable is set and not empty.
need() {
  [[ -n ${!1:-} ]] || die "$1 is not set; for example: export $1=$2"
}

# need_number VARIABLE: a whole number above 0.
need_number() {
  [[ ${!1} =~ ^[1-9][0-9]{0,8}$ ]] || die "$1=${!1} is no whole number above 0"
}

# need_switch VARIABLE: 1, or nothing.
need_switch() {
  [[ ${!1:-} =~ ^1?$ ]] || die "$1=${!1} is no switch: 1, or leave it out"
}

# need_name VARIABLE LENGTH: a DNS-1123 label that starts with a letter.
need_name() {
  local value=${!1}
  if [[ ! $value =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] || ((${#value} > $2)); then
    die "$1=$value is no name: a letter first, then a-z, 0-9 and -, $2 at most (my-run-1)"
  fi
}

# read_arguments ARGUMENTS...: ACTION [--dry-run] [-- FLAGS OF MAIN...] into `action`, `dry_run` and
# `flags`. A launcher's own flags are in `switches`, as --flag=VARIABLE that becomes 1.
action='' flags=() switches=()
read_arguments() {
  local switch found
  while (($#)); do
    found=''
    for switch in "${switches[@]}"; do
      if [[ $1 == "${switch%%=*}" ]]; then
        printf -v "${switch#*=}" 1
        found=1
      fi
    done
    case $1 in
      --help) usage && exit 0 ;;
      --dry-run) dry_run=1 ;;
      --)
        # shellcheck disable=SC2034 # read by the launchers that source this file
        flags=("${@:2}")
        return
        ;;
      -*) [[ -n $found ]] || die "unknown flag $1; flags of the training go behind --" ;;
      *)
        [[ -z $action ]] || die "one action at a time: $action or $1"
        action=$1
        ;;
    esac
    shift
  done
}

# train_command PYTHON CLUSTER [FLAGS...]: the array `train`, every host's command; CONFIG and WORKDIR
# are the environment's.
train_command() {
  local python=$1 cluster=$2
  shift 2
  # shellcheck disable=SC2034 # read by the launchers that source this file
  train=("$python" -m unitok_jax.main "--config=$CONFIG" "--workdir=$WORKDIR"
    "--cluster=$cluster" "$@")
}

# quote ARGUMENTS...: one line that a shell reads back as the same arguments.
quote() {
  local line
  printf -v line '%q ' "$@"
  printf '%s\n' "${line% }"
}

# call COMMAND...: runs it, or prints it in a dry run. Its failure is the caller's.
call() {
  if [[ -n $dry_run ]]; then
    quote "$@"
  else
    "$@"
  fi
}

child='' interrupted='' stopping='' presses=0 status=0

# forward_signals: from here on TERM, INT and HUP reach the child of run_child as TERM; the second
# INT, of a person who does not want to wait, kills it.
forward_signals() {
  trap 'forward TERM' TERM HUP
  trap interrupt INT
}

interrupt() {
  presses=$((presses + 1))
  if ((presses > 1)); then forward KILL; else forward TERM; fi
}

forward() {
  stopping=1 interrupted=1
  [[ -z $child ]] || kill -"$1" "$child" 2>/dev/null || true
}

# run_child COMMAND...: runs it to its end and leaves its exit code in `status`; `stopping` is set
# when a signal came. A child that had no handler for the signal yet counts as preempted (75).
run_child() {
  "$@" &
  child=$!
  [[ -z $stopping ]] || kill -TERM "$child" 2>/dev/null || true
  while :; do
    interrupted='' status=0
    wait "$child" || status=$?
    [[ -n $interrupted ]] || break # otherwise the signal ended the wait, not the child
  done
  child=''
  if [[ -n $stopping && $status == 143 ]]; then
    status=75
  fi
}
