# %% [markdown]
# # Where does the prompt's information go?
#
# Saliency is attention times its gradient. Both papers behind promptstage read it as a flow of information:
# from the prompt to the question, and from the prompt to the rationale, layer by layer.

# %%
import os

import promptstage as ps

STEPS = int(os.environ.get("STEPS", "200"))
QUESTIONS = int(os.environ.get("QUESTIONS", "100"))

prompt = ps.PromptTuning(ps.Backbone("embedded"), num_virtual_tokens=16)
data = ps.Generated(task="addition", batch_size=32, test_size=QUESTIONS)
run = ps.fit(prompt, data, max_steps=STEPS, lr=0.03, folder="runs/example-saliency")

# %% [markdown]
# One question: the prompt generates an answer, whose loss is differentiated.

# %%
saliency = prompt.saliency("347+58")
print(saliency.generation)
for layer, to_question, to_rationale in zip(
    saliency.layers, saliency.prompt_to_question, saliency.prompt_to_rationale, strict=True
):
    print(f"layer {layer:2d}   to question {to_question:.2e}   to rationale {to_rationale:.2e}")

# %%
figure = saliency.plot()
figure.savefig("runs/example-saliency/one_question.png")

# %% [markdown]
# A whole test split: the callback measures every question, and compares correct with incorrect answers.

# %%
evaluation = run.test(callbacks=[ps.SaliencyDiagnostics()])
print(evaluation.accuracy)
print(*sorted(path.name for path in evaluation.figures))
