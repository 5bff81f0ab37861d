#!/usr/bin/env bash
# Kubernetes: an Indexed Job on GPU nodes, or a JobSet on GKE's TPU slices.
set -euo pipefail
# shellcheck source=launch/commands.sh
source "$(dirname "${BASH_SOURCE[0]}")/commands.sh"

usage() {
  cat <<'TEXT'
usage: launch/kubernetes.sh ACTION [--dry-run] [-- FLAGS OF MAIN...]

  image    builds and pushes IMAGE
  render   the YAML, to stdout
  apply    the same, as runs/NAME.yaml, to the cluster: starts the job
  status   of the job and its pods
  logs     follows process 0's log
  restart  delete, then apply: the job resumes from its newest checkpoint
  delete   the job; its processes get SIGTERM and GRACE seconds to save

Settings (environment):
  NAME       of the job
  KIND       gpu (default) or tpu
  NAMESPACE  (kubectl's own default)
  IMAGE      needed by image, render, apply, restart: us-docker.pkg.dev/project/repository/unitok:1
  CONFIG     needed by render, apply, restart: configs/b16.py
  WORKDIR    needed by render, apply, restart: gs://bucket/b16, or a path of a volume you add
  RESTARTS   failures of pods (gpu) or restarts of the set (tpu) before the job has failed (100)
  GRACE      seconds between SIGTERM and SIGKILL (300)
  HOSTS      gpu: nodes (1)
  GPUS       gpu: of a node (8)
  SLICES     tpu: (1)
  TPU        tpu: the node pool's accelerator: tpu-v5-lite-podslice
  TOPOLOGY   tpu: of a slice: 16x16
  CHIPS      tpu: of a host (4)
TEXT
}

read_arguments "$@"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
KIND=${KIND:-gpu} RESTARTS=${RESTARTS:-100} GRACE=${GRACE:-300}
HOSTS=${HOSTS:-1} GPUS=${GPUS:-8} SLICES=${SLICES:-1} CHIPS=${CHIPS:-4}

kubernetes() {
  call kubectl ${NAMESPACE:+"--namespace=$NAMESPACE"} "$@"
}

# The argument as a JSON string, which YAML reads too. Kubernetes would replace $(NAME): $$ is one $.
json_string() {
  local text=$1
  [[ $text != *[[:cntrl:]]* ]] || die "$(quote "$text") holds a control character"
  text=${text//\\/\\\\}
  text=${text//\"/\\\"}
  printf '"%s"' "${text//\$/\$\$}"
}

check_tpu() {
  local chips=1 side sides
  need TPU tpu-v5-lite-podslice
  need TOPOLOGY 16x16
  need_number SLICES
  need_number CHIPS
  need_name TPU 63
  [[ $TOPOLOGY =~ ^[1-9][0-9]{0,2}(x[1-9][0-9]{0,2}){1,2}$ ]] ||
    die "TOPOLOGY=$TOPOLOGY is no topology; for example 4x4 or 4x4x8"
  IFS=x read -ra sides <<<"$TOPOLOGY"
  for side in "${sides[@]}"; do
    chips=$((chips * side))
  done
  ((chips % CHIPS == 0)) ||
    die "TOPOLOGY=$TOPOLOGY has $chips chips, no multiple of CHIPS=$CHIPS; set CHIPS to a host's chips"
  HOSTS=$((chips / CHIPS))
}

render() {
  local text cluster=kubernetes arguments='' argument setting
  need IMAGE us-docker.pkg.dev/project/repository/unitok:1
  need CONFIG configs/b16.py
  need WORKDIR gs://bucket/b16
  [[ $IMAGE =~ ^[A-Za-z0-9][A-Za-z0-9._:/@-]*$ ]] || die "IMAGE=$IMAGE is no image's name"
  for setting in RESTARTS GRACE HOSTS GPUS; do
    need_number "$setting"
  done
  if [[ $KIND == tpu ]]; then
    check_tpu
    cluster=tpu
  fi
  train_command python "$cluster" "${flags[@]}"
  for argument in "${train[@]}"; do
    arguments+=${arguments:+, }$(json_string "$argument")
  done
  text=$(<"launch/kubernetes/$KIND.yaml")
  for setting in NAME IMAGE HOSTS RESTARTS GRACE GPUS SLICES CHIPS TPU TOPOLOGY; do
    text=${text//"\${$setting}"/"${!setting:-}"}
  done
  # The arguments are the last: they may hold what looks like another.
  printf '%s\n' "${text//"\${ARGS}"/"[$arguments]"}"
}

apply() {
  local text
  text=$(render)
  if [[ -z $dry_run ]]; then
    mkdir -p runs
    printf '%s\n' "$text" >"runs/$NAME.yaml"
  fi
  kubernetes apply "--filename=runs/$NAME.yaml"
}

delete() {
  if [[ $KIND == tpu ]]; then
    kubernetes delete jobset "$NAME" --ignore-not-found --cascade=foreground
  else
    kubernetes delete service,job "$NAME" --ignore-not-found --cascade=foreground
  fi
}

restart() {
  local text
  text=$(render) # an error in the settings must not cost the running job
  delete
  apply
}

status() {
  if [[ $KIND == tpu ]]; then
    kubernetes get jobset,job "--selector=app.kubernetes.io/instance=$NAME"
  else
    kubernetes get job "$NAME"
  fi
  kubernetes get pods "--selector=app.kubernetes.io/instance=$NAME" --output=wide
}

logs() {
  local selector=app.kubernetes.io/instance=$NAME,batch.kubernetes.io/job-completion-index=0
  [[ $KIND != tpu ]] || selector+=,jobset.sigs.k8s.io/job-index=0
  kubernetes logs "--selector=$selector" --container=train --tail=100 --follow
}

image() {
  local extra=cuda
  need IMAGE us-docker.pkg.dev/project/repository/unitok:1
  need_tool docker "Install Docker Engine"
  [[ $KIND != tpu ]] || extra=tpu
  call docker build --file=launch/Dockerfile "--build-arg=EXTRA=$extra" "--tag=$IMAGE" .
  call docker push "$IMAGE"
}

case $action in
  image | render | apply | status | logs | restart | delete) ;;
  '') die "no action; --help lists them" ;;
  *) die "unknown action $action; --help lists them" ;;
esac
need NAME unitok-b16
need_name NAME 40
[[ $KIND == gpu || $KIND == tpu ]] || die "KIND=$KIND; gpu or tpu"
if [[ -n ${NAMESPACE:-} ]]; then
  need_name NAMESPACE 63
fi
[[ $action == image || $action == render ]] || need_tool kubectl "Install Tools, kubectl"
"$action"
