#!/usr/bin/env bash
# Starts a command on PROCESSES processes of each of NODES machines; run it on every machine:
#   HEAD=node0 NODES=2 PROCESSES=4 configs/launch/torchrun.sh fit -c FILE ...
# Stop at the first error, and at a name without a value.
set -eu
# Machines of the job; default: this one.
NODES="${NODES:-1}"
# Processes of a machine: its GPUs.
PROCESSES="${PROCESSES:-2}"
# The first machine's name, and a port that is free there.
HEAD="${HEAD:-localhost}:${PORT:-29500}"
# The Python of the project's environment.
PYTHON="${PYTHON:-.venv/bin/python}"
# torchrun ends all processes when one dies, and says which and why.
exec "$PYTHON" -m torch.distributed.run --nnodes "$NODES" --nproc-per-node "$PROCESSES" \
    --rdzv-backend c10d --rdzv-endpoint "$HEAD" cli.py "$@" \
    --trainer.num_nodes "$NODES" --trainer.devices "$PROCESSES" --trainer.strategy ddp
