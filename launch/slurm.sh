#!/usr/bin/env bash
#SBATCH --job-name=unitok
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# One task a node, all GPUs of the node in its process. Submitted with sbatch: see --help.
set -euo pipefail
# Slurm runs a copy of this file from its spool folder; the repository is where sbatch was called.
root=${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}
if [[ ! -f $root/launch/commands.sh ]]; then
  echo "slurm.sh: error: $root is not the repository; call sbatch in the repository's folder" >&2
  exit 2
fi
cd "$root"
# shellcheck source=launch/commands.sh
source launch/commands.sh

usage() {
  cat <<'TEXT'
usage: sbatch --nodes=8 --gpus-per-node=8 [SBATCH FLAGS] launch/slurm.sh FLAGS OF MAIN...
       launch/slurm.sh --dry-run FLAGS OF MAIN...

For example: sbatch --nodes=8 --gpus-per-node=8 --time=24:00:00 launch/slurm.sh \
                 --config=configs/b16.py --workdir=/shared/b16

Two minutes before the time limit Slurm sends SIGTERM; the training saves and exits with 75, and the job
puts itself into the queue again. A job that was cancelled stays cancelled. A crashed process is started
again inside the job (launch/supervise.sh --help); a lost node makes Slurm queue the job again.

Settings (environment):
  PYTHON  of an environment that every node sees (python)
  MAX_CRASHES, PAUSE, PROGRESS_SECONDS  see launch/supervise.sh --help
TEXT
}

case ${1:-} in
  --help) usage && exit 0 ;;
  --dry-run) dry_run=1 && shift ;;
esac
(($#)) || die "no flags; for example: sbatch --nodes=8 launch/slurm.sh --config=... --workdir=..."
# --wait: a task ends only when its supervisor gives up or is done, and then the others are to end too.
# --cpu-bind=none: without it some sites pin the one task of a node to one core.
step=(srun --ntasks-per-node=1 --kill-on-bad-exit=0 --wait=600 --cpu-bind=none
  ./launch/supervise.sh "${PYTHON:-python}" -m unitok_jax.main "$@" --cluster=slurm)
if [[ -n $dry_run ]]; then
  quote "${step[@]}"
  exit 0
fi
[[ -n ${SLURM_JOB_ID:-} ]] || die "not inside a Slurm job; submit it: sbatch --nodes=8 launch/slurm.sh ..."
need_tool srun "Slurm quick start administrator guide"

# Slurm's controller may not answer at once, when many jobs are preempted together.
patiently() {
  local try
  for try in 1 2 3 4 5; do
    "$@" && return
    ((try == 5)) || sleep "${PAUSE:-10}"
  done
  say "$* failed $try times: preempted and saved, but not in the queue; scontrol requeue $SLURM_JOB_ID"
  exit 75
}

forward_signals
run_child "${step[@]}"
if [[ $status == 75 ]]; then
  job=$(patiently scontrol show job "$SLURM_JOB_ID")
  # While Slurm itself ends the job (scancel, preemption) the job is no longer RUNNING.
  if [[ $job == *JobState=RUNNING* ]]; then
    say "preempted and saved: job $SLURM_JOB_ID goes into the queue again"
    patiently scontrol requeue "$SLURM_JOB_ID"
  else
    say "preempted and saved: Slurm ends job $SLURM_JOB_ID itself, no requeue"
  fi
fi
exit "$status"
