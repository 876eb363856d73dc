#!/usr/bin/env bash
# Starts a command on PROCESSES processes of each of NODES machines; run it on every machine:
#   HEAD=node0 NODES=2 PROCESSES=4 configs/launch/torchrun.sh fit -c FILE ...
# Stop at the first error, and at a name without a value.
set -eu
# Machines of the job; default: this one.
NODES="${NODES:-1}"
# Processes of a machine: its GPUs.
PROCESSES="${PROCESSES:-2}"
# The first machine's name, and a port that is free there; processes talk to each other over others.
HEAD="${HEAD:-localhost}"
PORT="${PORT:-29500}"
# The Python of the project's environment.
PYTHON="${PYTHON:-.venv/bin/python}"
if command -v "$PYTHON" >/dev/null && ! "$PYTHON" -c "import socket, sys; socket.getaddrinfo(sys.argv[1], None)" "$HEAD" 2>/dev/null; then
    echo "error: HEAD is '$HEAD', a machine of which this one does not know the address" >&2
    exit 2
fi
if [ "$NODES" -gt 1 ]; then
    echo "waiting for $NODES machines to start the same command with HEAD=$HEAD PORT=$PORT, 10 minutes at most" >&2
fi
# torchrun ends all processes when one dies, and says which and why.
exec "$PYTHON" -m torch.distributed.run --nnodes "$NODES" --nproc-per-node "$PROCESSES" \
    --rdzv-backend c10d --rdzv-endpoint "$HEAD:$PORT" cli.py "$@" \
    --trainer.num_nodes "$NODES" --trainer.devices "$PROCESSES" --trainer.strategy ddp
