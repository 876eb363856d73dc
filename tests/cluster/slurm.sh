#!/usr/bin/env bash
# A real SLURM of one controller and two node daemons on this machine, and three jobs on it:
# undisturbed, requeued by hand in the middle, and requeued by the signal before its time limit.
# All must end with the same prompt and the same results. Prints what happened; takes everything down again.
# Needs root and Debian's slurm-wlm; run it in the project's folder.
set -eu
ROOT="$PWD"
PYTHON="${PYTHON:-$ROOT/.venv/bin/python}"
HERE="$(mktemp -d)"
chmod 755 "$HERE"
export SLURM_CONF="$HERE/slurm.conf" PYTHON OMP_NUM_THREADS=1
export TRAINER="$ROOT/tests/cluster/cpu_nodes.yaml"

down() {
    set +e
    for name in slurmd-node1 slurmd-node2 slurmctld munged; do
        [ -e "$HERE/$name.pid" ] && kill "$(cat "$HERE/$name.pid")"
    done
    sed -i '/# promptstage-test$/d' /etc/hosts
    sleep 2
    rm -rf "$HERE"
}
trap down EXIT

up() {
    mkdir "$HERE/state" "$HERE/node1" "$HERE/node2"
    echo "127.0.0.1 node1 node2 # promptstage-test" >> /etc/hosts
    cat > "$SLURM_CONF" <<EOF
ClusterName=promptstage
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=17817
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$HERE/munge.socket
StateSaveLocation=$HERE/state
SlurmdSpoolDir=$HERE/%n
SlurmctldPidFile=$HERE/slurmctld.pid
SlurmdPidFile=$HERE/slurmd-%n.pid
SlurmctldLogFile=$HERE/slurmctld.log
SlurmdLogFile=$HERE/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
JobRequeue=1
NodeName=node1 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=17818 CPUs=2
NodeName=node2 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=17819 CPUs=2
PartitionName=all Nodes=node1,node2 Default=YES State=UP
EOF
    head -c 1024 /dev/urandom > "$HERE/munge.key"
    chmod 600 "$HERE/munge.key"
    munged --force --key-file "$HERE/munge.key" --socket "$HERE/munge.socket" --pid-file "$HERE/munged.pid" \
        --log-file "$HERE/munged.log" --seed-file "$HERE/munged.seed" 2>/dev/null
    slurmctld -f "$SLURM_CONF"
    slurmd -f "$SLURM_CONF" -N node1
    slurmd -f "$SLURM_CONF" -N node2
    for _ in $(seq 30); do
        [ "$(sinfo --noheader --format %T)" = idle ] && break
        sleep 1
    done
    slurmctld -V
    sinfo
}

FLAGS="--model DHAM --model.partition [0,4,8] --model.num_virtual_tokens 12 --model.optimizer.lr 0.03
    --model.optimizer.schedule cosine --data Generated --data.task addition --data.batch_size 16
    --data.test_size 100 --data.validation_size 20 --trainer.val_check_interval 50 --model.val_generations 0
    --trainer.max_steps ${STEPS:-400} --save_every 20"

# submit NAME OPTION...: put the project's script in the queue, with this machine's sizes.
submit() {
    mkdir -p "$HERE/$1"
    ln -sfn "$ROOT/cli.py" "$HERE/$1/cli.py"
    # shellcheck disable=SC2086
    (cd "$HERE/$1" && sbatch --parsable --nodes 2 --ntasks-per-node 1 --gpus-per-node 0 --cpus-per-task 1 \
        --output log.txt "${@:2}" "$ROOT/configs/launch/slurm.sbatch" $FLAGS)
}

# await NAME JOB: until it has ended; then how.
await() {
    while squeue --noheader --job "$2" --format %T 2>/dev/null | grep -q .; do sleep 1; done
    echo "--- $1: $(scontrol show job "$2" | grep -oE '(JobState|Restarts|ExitCode|RunTime|NodeList)=[^ ]+' | xargs)"
    grep -vE 'warn|^$|Rank|rank_zero|─|┃' "$HERE/$1/log.txt" || true
}

# reached NAME JOB STEP: until a checkpoint of that step is there.
reached() {
    until "$PYTHON" -c "import sys, torch
sys.exit(torch.load(sys.argv[1], weights_only=True)['global_step'] < $3)" \
        "$HERE/$1/runs/slurm-$2/checkpoints/last.ckpt" 2>/dev/null; do sleep 0.5; done
}

up
first=$(submit undisturbed --time 20)
await undisturbed "$first"

second=$(submit requeued --time 20)
reached requeued "$second" 100
echo "scontrol requeue $second, at $(date +%T)"
scontrol requeue "$second"
await requeued "$second"

third=$(submit limited --time 1 --signal USR1@25)
until grep -q "is back in the queue" "$HERE/limited/log.txt" 2>/dev/null; do sleep 1; done
scontrol update JobId="$third" TimeLimit=20 # once is enough
await limited "$third"

"$PYTHON" - "$HERE" "undisturbed/runs/slurm-$first" "requeued/runs/slurm-$second" "limited/runs/slurm-$third" <<'EOF'
import sys
from pathlib import Path

from safetensors.torch import load_file

here, *runs = map(Path, sys.argv[1:])
prompts = [load_file(here / run / "prompt.safetensors") for run in runs]
records = [(here / run / "test" / "results.jsonl").read_text() for run in runs]
for run, prompt, record in zip(runs[1:], prompts[1:], records[1:]):
    equal = all(prompt[name].equal(tensor) for name, tensor in prompts[0].items())
    print(f"{run}: prompt {'bit-identical' if equal else 'ANOTHER'}, records", end=" ")
    print("identical" if record == records[0] else "DIFFERENT")
    assert equal and record == records[0]
EOF
