#!/usr/bin/env bash
# Start one training as several processes. Everything after -- is the command, the same for all.
#
#   scripts/launch.sh local 2 -- .venv/bin/python -m experiments.train_cells --workdir runs/two
#   scripts/launch.sh ssh gpu1,gpu2 --dir unet_jax -- .venv/bin/python -m experiments.train_cells --workdir /nfs/run
#   scripts/launch.sh slurm --nodes 4 --tasks-per-node 8 --time 12:00:00 --sbatch=--gpus-per-node=8 -- COMMAND
#   scripts/launch.sh tpu NAME --zone us-west4-a --setup                       # copy this folder, install
#   scripts/launch.sh tpu NAME --zone us-west4-a -- .venv/bin/python -m experiments.train_cells --workdir gs://BUCKET/run
#   scripts/launch.sh tpu NAME --zone us-west4-a --stop                        # with a checkpoint
#
# --print shows what would be run. local and ssh stay until all processes have ended, and give the largest exit code;
# Ctrl-C there saves first. slurm queues a job, tpu leaves the training running on the pod (train.log). Exit code 143
# means stopped with a checkpoint: the same command with --resume goes on.
set -euo pipefail

usage() { sed -n '2,/^# means/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
die() { echo "error: $*" >&2; exit 2; }

quoted() { # words as a shell takes them
    local word line=""
    for word; do
        [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
        line+="$word "
    done
    echo "${line% }"
}

[ $# -ge 1 ] || usage
how=$1; shift
target="" print="" setup="" stop="" port=8476 dir=unet_jax zone="" project="" nodes=1 tasks=1 time="" sbatch=()
if [[ $how =~ ^(local|ssh|tpu)$ ]]; then
    [[ $# -ge 1 && $1 != -* ]] || die "$how: name the number of processes, the hosts (a,b,c), or the TPU"
    target=$1; shift
fi
while [ $# -gt 0 ]; do
    case $1 in
        --print) print=yes ;;
        --setup) setup=yes ;;
        --stop) stop=yes ;;
        --sbatch=*) sbatch+=("${1#--sbatch=}") ;;
        --port | --dir | --zone | --project | --nodes | --tasks-per-node | --time)
            [ $# -ge 2 ] || die "$1: its value is missing"
            name=${1#--}; name=${name%-per-node}
            printf -v "$name" %s "$2"; shift ;;
        --) shift; break ;;
        *) die "$1 is unknown; the command comes after --" ;;
    esac
    shift
done
[ $# -gt 0 ] || [ -n "$setup$stop" ] || die "the command is missing: -- .venv/bin/python -m experiments.train_cells ..."
command=$(quoted "$@") words=("$@")

run() { if [ -n "$print" ]; then quoted "$@"; else "$@"; fi; }
start() { if [ -n "$print" ]; then quoted "$@"; else exec "$@"; fi; }

together() { # COUNT START STOP: `START I` for every I at the same time, `STOP` on Ctrl-C and SIGTERM
    local i pid code worst=0 pids=()
    for ((i = 0; i < $1; i++)); do
        if [ -n "$print" ]; then "$2" "$i"; else "$2" "$i" & pids+=($!); fi
    done
    [ -z "$print" ] || return 0
    trap "$3" INT TERM
    for pid in "${pids[@]}"; do
        while true; do
            code=0; wait "$pid" || code=$?
            kill -0 "$pid" 2>/dev/null || break # else a signal only ended the wait
        done
        [ "$code" -le "$worst" ] || worst=$code
    done
    return "$worst"
}

start_here() { start env "UNET_JAX_PROCESSES=$1/$target@127.0.0.1:$port" "${words[@]}"; }
stop_here() { kill -TERM "${pids[@]}" 2>/dev/null || true; }
start_there() {
    local who="UNET_JAX_PROCESSES=$1/${#hosts[@]}@${hosts[0]##*@}:$port"
    start ssh "${hosts[$1]}" "cd $(quoted "$dir") && echo \$\$ > train.\$(hostname).pid && exec env $who $command"
}
stop_there() { ssh "${hosts[0]}" "kill -TERM \$(cat $(quoted "$dir")/train.\$(hostname).pid)" || true; }

case $how in
    local)
        [[ $target =~ ^[1-9][0-9]*$ ]] || die "local $target: give the number of processes"
        together "$target" start_here stop_here ;;
    ssh)
        IFS=, read -r -a hosts <<<"$target"
        together "${#hosts[@]}" start_there stop_there ;;
    tpu)
        [ -n "$zone" ] || die "tpu: --zone is missing"
        vm=(gcloud compute tpus tpu-vm) where=("--zone=$zone") there="cd $(quoted "$dir")"
        [ -z "$project" ] || where+=("--project=$project")
        if [ -n "$setup" ]; then
            run git archive --format=tar.gz "--prefix=$dir/" --output=/tmp/unet_jax.tar.gz HEAD
            run "${vm[@]}" scp /tmp/unet_jax.tar.gz "$target:" "${where[@]}" --worker=all
            # a TPU VM may have an older Python: uv brings one
            python='P=python3; $P -c "import sys; sys.exit(sys.version_info < (3, 11))" ||'
            python+=' { $P -m pip install --user uv && $P -m uv python install 3.11 && P=$($P -m uv python find 3.11); }'
            run "${vm[@]}" ssh "$target" "${where[@]}" --worker=all \
                "--command=tar xzf unet_jax.tar.gz && $there && $python; make setup PYTHON=\$P &&\
 .venv/bin/pip install -r requirements-tpu.txt"
        fi
        if [ -n "$stop" ]; then
            run "${vm[@]}" ssh "$target" "${where[@]}" --worker=0 "--command=$there && kill -TERM \$(cat train.pid)"
        fi
        if [ $# -gt 0 ]; then
            leave="> train.log 2>&1 < /dev/null & echo \$! > train.pid"
            run "${vm[@]}" ssh "$target" "${where[@]}" --worker=all \
                "--command=$there && { UNET_JAX_PROCESSES=auto nohup $command $leave; }"
            echo "to watch: $(quoted "${vm[@]}" ssh "$target" "${where[@]}" --worker=0 "--command=tail -f $dir/train.log")" >&2
        fi ;;
    slurm)
        script=$(
            echo "#!/usr/bin/env bash"
            echo "#SBATCH --job-name=unet_jax --nodes=$nodes --ntasks-per-node=$tasks --requeue --open-mode=append"
            echo "#SBATCH --signal=TERM@180"
            [ -z "$time" ] || echo "#SBATCH --time=$time"
            for option in ${sbatch[@]+"${sbatch[@]}"}; do echo "#SBATCH $option"; done
            echo "export UNET_JAX_PROCESSES=auto"
            echo "srun $command \${SLURM_RESTART_COUNT:+--resume}"
            echo 'code=$?'
            echo '[ $code -ne 143 ] || scontrol requeue "$SLURM_JOB_ID"  # the time was up: it goes on with --resume'
            echo 'exit $code'
        )
        if [ -n "$print" ]; then echo "$script"; else sbatch <<<"$script"; fi ;;
    *) usage ;;
esac
