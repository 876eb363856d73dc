# %% [markdown]
# # Stages of a backbone
#
# DHAM ("Unlocking coherent reasoning in LLMs with hierarchical soft prompts", under review) groups the
# layers of the backbone into stages by the similarity of their outputs (linear CKA), and trains one prompt
# for each stage.

# %%
import os

import promptstage as ps

STEPS = int(os.environ.get("STEPS", "200"))
QUESTIONS = int(os.environ.get("QUESTIONS", "200"))

backbone = ps.Backbone("embedded")
data = ps.Generated(task="addition", batch_size=32, test_size=QUESTIONS)
prompt = ps.DHAM(backbone, num_virtual_tokens=16)

# %% [markdown]
# The search runs before training, on 96 training questions. It can also run alone, which draws the
# similarity matrix, the dendrogram, and the silhouette against the number of stages.

# %%
stages = ps.partition(prompt, data, folder="runs/example-partition")
print(stages, "silhouette", stages.silhouette)
print(*sorted(path.name for path in ps.Run("runs/example-partition").figures))

# %% [markdown]
# Training uses the stages that were found. Prompts with other stages share the backbone in memory.

# %%
uniform = ps.DHAM(backbone, num_virtual_tokens=16, partition="uniform", num_stages=3)
for name, method in {"cka": prompt, "uniform": uniform}.items():
    run = ps.fit(method, data, max_steps=STEPS, lr=0.03, folder=f"runs/example-stages-{name}")
    print(name, method.stages, run.test().accuracy)
