"""What sharding a backbone over processes saves and costs: the same training on whole backbones and on one in shards.

    OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=1048576 python studies/speed/shards.py --rounds 3

A Llama of the shape that is given, with random weights in float32, is trained on by two processes under torchrun, by
turns whole in each and in shards over both (FSDP2). One JSON object: the bytes of weights and the peak memory of a
process, the median seconds of a step, their ratios, and whether both gave the same delta. The second variable tells the
C library to give freed layers back to the system; without it the memory of a process on a CPU only ever grows. On CPUs
the shards travel by gloo through memory; what they cost between GPUs this does not say.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM

import deltacompose as dc
from deltacompose.attach import attach
from deltacompose.backbone.pico import pico_tokenizer
from deltacompose.backbone.pretrained import still
from deltacompose.backbone.sharding import shard
from deltacompose.distributed import process_group
from deltacompose.engine import launched
from deltacompose.scoring import reader
from deltacompose.study.recipe import Recipe
from deltacompose.task import Example, Task
from deltacompose.training import frozen, learn
from deltacompose.training.learner import Job, Learner
from deltacompose.training.memory import count_anew, peak

ARMS = ("whole", "sharded")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--steps", type=int, default=8)
    given = vars(parser.parse_args())
    print(json.dumps(compared(**given)))


def compared(rounds: int, processes: int, layers: int, width: int, steps: int) -> dict[str, Any]:
    """Both arms by turns, each in fresh processes; of each round the greatest of the processes' figures."""
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for turn in range(rounds):
        for arm in ARMS if turn % 2 else reversed(ARMS):
            with tempfile.TemporaryDirectory(prefix="shards-") as folder:
                spec = {"arm": arm, "folder": folder, "layers": layers, "width": width, "steps": steps}
                launched("shards:trained", spec, processes)
                each = [json.loads(file.read_text()) for file in Path(folder).iterdir()]
            found[arm].append({name: max(one[name] for one in each) for name in each[0]})
    shape = {"processes": processes, "layers": layers, "width": width, "rounds": rounds, "steps": steps}
    return shape | found | {"sharded_over_whole": _ratios(found), "equal": _equal(found)}


def trained(spec: Mapping[str, Any]) -> None:
    """One process's part of the training, and its figures left in a file."""
    with process_group() as processes:
        torch.manual_seed(0)
        width = spec["width"]
        shape = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 64}
        config = LlamaConfig(vocab_size=512, num_hidden_layers=spec["layers"], **shape)
        backbone = dc.load_backbone(still(LlamaForCausalLM(config)), pico_tokenizer("llama"))
        if spec["arm"] == "sharded":
            shard(backbone)
        elif torch.cuda.is_available():
            backbone.model.to("cuda")
        rows = tuple(Example(str(k), f"{k} " * 32, "yes") for k in range(32))
        task = Task("made", "made", "generation", "exact_match", lambda split: rows)
        recipe = Recipe(steps=spec["steps"], batch=4, evaluate_every=spec["steps"])
        expression = dc.parse("prompt(length=8) + lora(rank=4) + adapter(bottleneck=8)")
        learner = Learner(backbone, Job(expression, reader(backbone, task), 0, recipe, processes=processes))
        attachment, seconds = attach(backbone, expression), []
        count_anew(backbone.model.device)
        with frozen(backbone.model):
            for _ in range(spec["steps"]):
                started = time.perf_counter()
                learn(attachment, [(learner, learner.batch())])
                seconds.append(time.perf_counter() - started)
        attachment.detach()
        local = [x.to_local() if isinstance(x, DTensor) else x for x in backbone.model.parameters()]
        figures = {
            "weights": sum(x.numel() * x.element_size() for x in local),
            "peak_memory": peak(backbone.model.device),
            "seconds_per_step": statistics.median(seconds[1:]),
            "learned": sha256(
                b"".join(x.detach().cpu().numpy().tobytes() for x in learner.weights.values())
            ).hexdigest(),
        }
        (Path(spec["folder"]) / f"{processes.rank}.json").write_text(json.dumps(figures))


def _ratios(found: Mapping[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Of each figure the ratio's median over the rounds, and its least and greatest."""
    ratios = {
        name: [part[name] / whole[name] for part, whole in zip(found["sharded"], found["whole"], strict=True)]
        for name in ("weights", "peak_memory", "seconds_per_step")
    }
    return {
        name: {"median": round(statistics.median(each), 3), "least": round(min(each), 3), "most": round(max(each), 3)}
        for name, each in ratios.items()
    }


def _equal(found: Mapping[str, list[dict[str, Any]]]) -> bool:
    return len({one["learned"] for arm in ARMS for one in found[arm]}) == 1


if __name__ == "__main__":
    main()
