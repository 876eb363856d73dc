# %% [markdown]
# # Dynamic Prompt Corruption
#
# DPC (Fan et al., "Improving complex reasoning with Dynamic Prompt Corruption", ICLR 2025,
# arXiv:2503.13208) generates an answer, measures how much the second half of the rationale depends on the
# prompt, and where it depends too much generates again with a corrupted prompt.

# %%
import os

import promptstage as ps

STEPS = int(os.environ.get("STEPS", "100"))
QUESTIONS = int(os.environ.get("QUESTIONS", "100"))

prompt = ps.PromptTuning(ps.Backbone("embedded"), num_virtual_tokens=16)
data = ps.Generated(task="last_letter", batch_size=32, validation_size=QUESTIONS, test_size=QUESTIONS)
run = ps.fit(prompt, data, max_steps=STEPS, lr=0.03, folder="runs/example-dpc")
print("without DPC:", run.test().accuracy)

# %% [markdown]
# `calibrate` selects the threshold on the validation split, and saves it beside the checkpoint.

# %%
run.calibrate()
evaluation = run.test(callbacks=[ps.DPC()])
print("with DPC:   ", evaluation.accuracy)

# %% [markdown]
# A fixed threshold needs no calibration. The lower it is, the more answers are generated again.

# %%
for threshold in (0.2, 0.8):
    print(threshold, run.test(callbacks=[ps.DPC(threshold=threshold)]).accuracy)
