"""Export of trained prompts to other programs: PEFT, vLLM and the Hugging Face Hub."""
