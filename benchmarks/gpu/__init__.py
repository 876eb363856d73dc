"""Correctness and speed on one CUDA device, in at most eight minutes.

    python -m benchmarks.gpu --out runs/gpu

The embedded backbone is trained, tested and measured on the device and on the CPU, and results are compared.
Then random weights of Llama-3-8B's shape are trained, measured and decoded beside PEFT and transformers.
``--device cpu`` runs the same in miniature.
"""
