#!/usr/bin/env bash
# Start a command on NODES machines with PROCESSES ranks each; run this on every machine:
#   HEAD=node0 NODES=2 PROCESSES=4 configs/launch/torchrun.sh fit -c FILE ...
# Exit at the first error and at an undefined variable.
set -eu
# Number of machines; default: this one.
NODES="${NODES:-1}"
# Ranks per machine, one per GPU.
PROCESSES="${PROCESSES:-2}"
# Name of the first machine and a free port on it, for the rendezvous.
HEAD="${HEAD:-localhost}"
PORT="${PORT:-29500}"
# Python of the project's environment.
PYTHON="${PYTHON:-.venv/bin/python}"
if command -v "$PYTHON" >/dev/null && ! "$PYTHON" -c "import socket, sys; socket.getaddrinfo(sys.argv[1], None)" "$HEAD" 2>/dev/null; then
    echo "error: HEAD is '$HEAD', a machine of which this one does not know the address" >&2
    exit 2
fi
if [ "$NODES" -gt 1 ]; then
    echo "waiting for $NODES machines to start the same command with HEAD=$HEAD PORT=$PORT, 10 minutes at most" >&2
fi
# torchrun ends all ranks when one fails, and reports which and why.
exec "$PYTHON" -m torch.distributed.run --nnodes "$NODES" --nproc-per-node "$PROCESSES" \
    --rdzv-backend c10d --rdzv-endpoint "$HEAD:$PORT" cli.py "$@" \
    --trainer.num_nodes "$NODES" --trainer.devices "$PROCESSES" --trainer.strategy ddp
