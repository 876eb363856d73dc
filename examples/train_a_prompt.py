# %% [markdown]
# # Train a prompt
#
# A soft prompt of 16 virtual tokens in front of the small backbone that ships with promptstage. Takes about
# two minutes on a CPU. The cells run as they are in VS Code and, through jupytext, in Jupyter.

# %%
import os

import promptstage as ps

STEPS = int(os.environ.get("STEPS", "200"))  # fewer for a quick look
QUESTIONS = int(os.environ.get("QUESTIONS", "200"))

backbone = ps.Backbone("embedded")
prompt = ps.PromptTuning(backbone, num_virtual_tokens=16)
data = ps.Generated(task="addition", batch_size=32, test_size=QUESTIONS, seed=0)

# %% [markdown]
# The backbone alone does not know the task. `generate` renders the question, decodes greedily, and returns
# the text after the prompt.

# %%
print("before:", repr(prompt.generate("347+58", max_new_tokens=60)))

# %% [markdown]
# `fit` writes a run folder: configuration, checkpoints, TensorBoard. The prompt ends with its best weights.

# %%
run = ps.fit(prompt, data, max_steps=STEPS, lr=0.03, folder="runs/example-prompt")
print("after:", repr(prompt.generate("347+58", max_new_tokens=60)))

# %% [markdown]
# `test` generates and grades an answer to every test question. An accuracy prints with its 95 % interval;
# records are dictionaries, ready for `pandas.DataFrame`.

# %%
evaluation = run.test()
print(evaluation.accuracy)
print(evaluation.records[0])

# %% [markdown]
# A prompt lives on a backbone and on disk. Loading it onto the same backbone shares the memory.

# %%
prompt.save("runs/example-prompt/saved")
again = ps.load("runs/example-prompt/saved", backbone)
assert again.generate("347+58") == prompt.generate("347+58")
