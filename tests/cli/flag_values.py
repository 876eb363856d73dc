"""A legal and an illegal value of every option of ``fit``."""

from typing import NamedTuple

DHAM = "--model=DHAM --model.partition=single --model.num_virtual_tokens=8"
SEARCH = (
    "--model=DHAM --model.num_virtual_tokens=8 --model.search.examples=8 --model.search.resamples=5 "
    "--model.search.max_stages=3"
)
PREFIX = "--model=PrefixTuning --model.num_virtual_tokens=2"
LORA = "--model=LoRA"
HARD = "--model=HardPrompt --model.num_virtual_tokens=2"
GSM8K = "--data=GSM8K --data.source=./rows --data.max_new_tokens=8"
MATH = "--data=MATH --data.source=./problems --data.max_new_tokens=8"
CUSTOM = (
    "--data=Custom --data.source=./rows --data.question=question --data.answer=answer "
    "--data.answer_after=#### --data.answer_kind=number --data.max_new_tokens=8"
)
CHOICE = (
    "--data=Custom --data.source=./labels --data.question=text --data.answer=label --data.answer_kind=choice "
    "--data.max_new_tokens=8"
)
FINAL = CHOICE.replace("choice", "text")
LABELS = "--data=Classification --data.source=./labels --data.max_new_tokens=8"
WORDS = f"{LABELS} --data.label_words=[Bad,Good]"
# The tokenizer of bytes has no tokens for words: the template ends in a space.
LETTERS = f"{CHOICE} --data.options=[no,yes] '--data.template={{question}} '"
SEQUENCES = "--data=Sequences --data.train_size=16 --data.validation_size=2"
MIXTURE = "--data=Mixture --data.max_new_tokens=8"
CHAT = "--data.template=chat"


class Values(NamedTuple):
    """Values of an option, with the flags and the message that belong to them.

    Attributes:
        legal: a value with which a fit of two steps runs; None if this machine has none.
        illegal: a value that is refused; None if every text is legal.
        flags: further flags for both.
        message: part of the error; by default the last part of the option's name.
        refused_with: flags that replace ``flags`` for the illegal value.
    """

    legal: str | None
    illegal: str | None
    flags: str = ""
    message: str = ""
    refused_with: str = ""


TRAINER = {
    "accelerator": Values("cpu", "gpux"),
    "accelerator.help": Values("CPUAccelerator", "Foo"),
    "strategy": Values("auto", "dpp"),
    "strategy.help": Values("DDPStrategy", "Foo"),
    "devices": Values("1", "-1"),
    "devices+": Values(None, "0", message="devices"),  # a list of devices: on GPUs
    "num_nodes": Values("1", "0"),
    "precision": Values("32-true", "transformer-engine"),
    "logger": Values("CSVLogger", "WandbLogger"),
    "logger+": Values("TensorBoardLogger", "Foo", message="--trainer.logger"),
    "logger.help": Values("CSVLogger", "Foo"),
    "callbacks": Values("LearningRateMonitor", "BatchSizeFinder"),
    "callbacks+": Values("DeviceStatsMonitor", "Foo", message="--trainer.callbacks"),
    "callbacks.help": Values("EarlyStopping", "Foo"),
    "fast_dev_run": Values("true", "-1"),
    "max_epochs": Values("1", "-2"),
    "min_epochs": Values("2", "-1"),
    "max_steps": Values("1", "-2"),
    "min_steps": Values("1", "3"),
    "max_time": Values("00:00:10:00", "soon", message="soon"),
    "limit_train_batches": Values("1", "-1"),
    "limit_val_batches": Values("1", "2.5"),
    "limit_test_batches": Values("1", "-1"),
    "limit_predict_batches": Values("1", "-0.5"),
    "overfit_batches": Values("1", "-1"),
    "val_check_interval": Values("0.5", "0"),
    "check_val_every_n_epoch": Values("1", "0"),
    "num_sanity_val_steps": Values("-1", "-2"),
    "log_every_n_steps": Values("1", "0"),
    "enable_checkpointing": Values("false", "maybe"),
    "enable_progress_bar": Values("true", "maybe"),
    "enable_model_summary": Values("true", "maybe"),
    "accumulate_grad_batches": Values("2", "0"),
    "gradient_clip_val": Values("1.0", "-1"),
    "gradient_clip_algorithm": Values("value", "abc", "--trainer.gradient_clip_val=1"),
    "deterministic": Values("warn", "abc"),
    "benchmark": Values("false", "maybe"),
    "inference_mode": Values("false", "maybe"),
    "use_distributed_sampler": Values("false", "true"),
    "profiler": Values("simple", "abc"),
    "profiler.help": Values("SimpleProfiler", "Foo"),
    "detect_anomaly": Values("true", "maybe"),
    "barebones": Values("false", "true"),
    "plugins": Values("LightningEnvironment", "AsyncCheckpointIO"),
    "plugins+": Values("LightningEnvironment", "HalfPrecision", message="trainer.plugins"),
    "plugins.help": Values("LightningEnvironment", "Foo"),
    "sync_batchnorm": Values("true", "maybe"),
    "reload_dataloaders_every_n_epochs": Values("1", "-1"),
    "default_root_dir": Values("null", "elsewhere"),
    "enable_autolog_hparams": Values("false", "maybe"),
    "model_registry": Values("null", "name"),
}
EARLY_STOPPING = {
    "monitor": Values("train/loss", "val_loss"),
    "min_delta": Values("0.1", "-1"),
    "patience": Values("0", "-1"),
    "verbose": Values("true", "maybe"),
    "mode": Values("max", "abc"),
    "strict": Values("false", "maybe"),
    "check_finite": Values("false", "maybe"),
    "stopping_threshold": Values("0.5", "low"),
    "divergence_threshold": Values("100", "high"),
    "check_on_train_epoch_end": Values("true", "maybe"),
    "log_rank_zero_only": Values("true", "maybe"),
}
BACKBONE = {
    "name": Values("embedded", "./nowhere", message="./nowhere"),
    "revision": Values("null", "abc", message="owner/nothing", refused_with="--backbone.name=owner/nothing"),
    "gguf_file": Values("null", "a.gguf"),
    "dtype": Values("float64", "float3"),
    "trust_remote_code": Values("false", "maybe"),
    "gradient_checkpointing": Values("true", "maybe"),
    "shard": Values("none", "nodes"),
    "quantization": Values("none", "8bit"),
    "init_seed": Values("0", "-1"),
}
REWARD = "--model.objective.kind=reward --early_stopping.monitor=val/accuracy --early_stopping.mode=max"
MODEL = {
    "num_virtual_tokens": Values("3", "1000000"),
    "partition": Values("single", "unform", "--model=DHAM --model.num_virtual_tokens=8"),
    "num_stages": Values("2", "0", "--model=DHAM --model.partition=uniform --model.num_virtual_tokens=8"),
    "search": Values("{min_stages: 2}", "3", SEARCH),
    "search.min_stages": Values("2", "1", SEARCH),
    "search.max_stages": Values("3", "1", SEARCH),
    "search.contiguous": Values("false", "maybe", SEARCH),
    "search.unbiased": Values("true", "maybe", SEARCH),
    "search.examples": Values("9", "7", SEARCH),
    "search.rationales": Values("true", "maybe", SEARCH),
    "search.pooling": Values("mean", "men", SEARCH, message="'men' is unknown"),
    "search.resamples": Values("3", "-1", SEARCH),
    "search.seed": Values("1", "-1", SEARCH),
    "mode": Values("replace", "repace", DHAM, message="'repace' is unknown"),
    "bos_first": Values("true", "maybe"),
    "init": Values("{kind: random}", "3"),
    "init.kind": Values("random", "txt"),
    "init.text": Values("Think.", " ", "--model.init.kind=text"),
    "init.preset": Values("gsm8k", "gms8k", "--model.init.kind=text", message="preset 'gms8k' is unknown"),
    "init.path": Values("./adapter", "./nowhere", "--model.init.kind=peft", message="nowhere does not exist"),
    "objective": Values("{kind: cross_entropy}", "3"),
    "objective.kind": Values("cross_entropy", "rewards", message="did you mean 'reward'?"),
    "objective.group_size": Values("2", "1", REWARD),
    "objective.kl_weight": Values("0", "-1", REWARD),
    "objective.context": Values("Think.", " ", "--model.objective.kind=distill"),
    "num_frozen_tokens": Values("1", "4", PREFIX),
    "optimizer": Values("{lr: 0.01}", "3"),
    "optimizer.lr": Values("0.01", "-1"),
    "optimizer.weight_decay": Values("0.1", "x"),
    "optimizer.betas": Values("[0.8,0.9]", "[0.9]"),
    "optimizer.warmup_steps": Values("1", "-1"),
    "optimizer.schedule": Values("cosine", "cosin", message="'cosin' is unknown"),
    "optimizer.kind": Values("adafactor", "adamm", message="'adamm' is unknown"),
    "update": Values("langevin", "pes", HARD, message="'pes' is unknown: did you mean 'pez'"),
    "fluency_weight": Values("0.1", "1", HARD),
    "val_generations": Values("0", "-1"),
    "rank": Values("2", "0", LORA),
    "alpha": Values("4", "0", LORA),
    "target_modules": Values("[q_proj]", "[foo]", LORA, message="LoRA cannot be added"),
    "rank_stabilized": Values("true", "maybe", LORA),
    "mlp_width": Values("4", "-1", PREFIX),
    "insert_at": Values("1", "4"),
    "visible_from": Values("1", "-1"),
    "visible_until": Values("2", "0"),
    "gate": Values("true", "maybe", DHAM),
}
DATA = {
    "source": Values("./rows", "./nowhere", GSM8K, message="./nowhere"),
    "revision": Values(
        "null",
        "abc",
        GSM8K,
        message="owner/nothing",
        refused_with=GSM8K.replace("./rows", "owner/nothing"),
    ),
    "max_new_tokens": Values("4", "0"),
    "template": Values("cot", "plian"),
    "batch_size": Values("4", "0"),
    "batch_tokens": Values("4000", "0"),
    "eval_batch_size": Values("4", "0"),
    "max_length": Values("100", "1"),
    "stop": Values("[x]", "['']"),
    "train_size": Values("8", "0"),
    "validation_size": Values("3", "0"),
    "test_size": Values("3", "0"),
    "perturbation": Values("noise", "nose", GSM8K),
    "perturbation_seed": Values("1", "-1", GSM8K),
    "on_bad_row": Values("skip", "skp", GSM8K),
    "date": Values("2026-01-31", "31.1.2026"),
    "seed": Values("1", "x"),
    "num_workers": Values("0", "-1"),
    "keep_calculator": Values("true", "maybe", GSM8K),
    "subset": Values("test", "tst", MATH),
    "task": Values("addition", "adition"),
    "lengths": Values("[2,3]", "[0]"),
    "tasks": Values("[plus_one]", "[plus_on]", SEQUENCES, message="task 'plus_on' is unknown"),
    "length": Values("4", "3", SEQUENCES),
    "ood_lengths": Values("[8,9]", "x"),
    "test_on": Values("ood", "odd"),
    "system": Values(None, "Think."),
    "template_args": Values(None, "{enable_thinking: false}"),
    "demonstrations": Values("2", "-1"),
    "demonstration_seed": Values("1", "-1"),
    "demonstrations_per_class": Values("1", "-1", LETTERS),
    "prediction": Values("label_words", "words", LETTERS),
    "train_size_per_class": Values("4", "0", LETTERS),
    "question": Values("answer", "problem", CUSTOM, message="no field 'problem'"),
    "answer": Values("{answer}", "result", CUSTOM, message="no field 'result'"),
    "answer_kind": Values("formula", "numbers", CUSTOM, message="'numbers'"),
    "answer_after": Values("####", "zzz", CUSTOM, message="no text after 'zzz'"),
    "rationale": Values("text", "steps", FINAL, message="no field 'steps'"),
    "completion": Values("answer", "steps", CUSTOM, message="no field 'steps'"),
    "options": Values("[no,yes]", "choices", CHOICE, message="no field 'choices'"),
    "train_split": Values("test", "tst", CUSTOM, message="has no tst.jsonl"),
    "validation_split": Values("test", "tst", CUSTOM, message="has no tst.jsonl"),
    "test_split": Values("train", None, CUSTOM),
    "name": Values("mine", None, CUSTOM),
    "subjects": Values("[algebra]", "[algebr]", MATH, message="subject 'algebr' is unknown"),
    "levels": Values("[1,2]", "[6]", MATH),
    "parts": Values(
        "{given_data.yaml: 2}", "{given_data.yaml: 0}", MIXTURE, message="weight of GSM8K must be > 0"
    ),
    "label_words": Values("[Bad,Good]", "[Good,Good]", LABELS),
    "text": Values("text", "txt", WORDS, message="no field 'txt'"),
    "label": Values("label", "lbl", WORDS, message="no field 'lbl'"),
}
FLAGS: dict[str, Values] = {
    "-h": Values("", None),
    "--help": Values("", "3"),
    "-c": Values("given.yaml", "nowhere.yaml", message="config"),
    "--config": Values("given.yaml", "nowhere.yaml"),
    "--print_config": Values("", "foo"),
    "--seed_everything": Values("1", "-1"),
    "--trainer": Values("{max_steps: 1}", "3"),
    "--model": Values("PromptTuning", "PromptTunin"),
    "--model.help": Values("DHAM", "DHMA", message="--model 'DHMA' is unknown"),
    "--data": Values("Generated", "Generatd"),
    "--data.help": Values("GSM8K", "GMS8K", message="--data 'GMS8K' is unknown"),
    "--backbone": Values("{dtype: float64}", "3"),
    "--run_dir": Values("elsewhere", "/proc/run", message="/proc/run"),
    "--save_every": Values("1", "0"),
    "--early_stopping": Values("{patience: 1}", "3"),
    "--ckpt_path": Values("run", "nowhere", message="nowhere"),
    "--weights_only": Values("true", "maybe"),
    **{f"--trainer.{name}": values for name, values in TRAINER.items()},
    **{f"--early_stopping.{name}": values for name, values in EARLY_STOPPING.items()},
    **{f"--backbone.{name}": values for name, values in BACKBONE.items()},
    **{f"--model.{name}": values for name, values in MODEL.items()},
    **{f"--data.{name}": values for name, values in DATA.items()},
}
