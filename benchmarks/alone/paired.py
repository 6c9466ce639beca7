"""Two ONNX files on the same inputs, one at a time and in turns: `python paired.py PART.onnx WHOLE.onnx INPUTS.npy ROUNDS`, prints JSON.

Runs in an environment with numpy and onnxruntime and nothing else, which it proves first. Times are in milliseconds of one input, one thread.
"""

import importlib.util
import json
import sys
import time

import numpy as np
import onnxruntime as ort

FOREIGN = ("torch", "onnx", "engine", "modelpress", "pydantic")


def session(path: str) -> ort.InferenceSession:
    """One thread, every input by itself."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def main() -> None:
    part, whole, inputs, rounds = sys.argv[1:5]
    found = [name for name in FOREIGN if importlib.util.find_spec(name)]
    if found:
        raise SystemExit(f"this environment has {', '.join(found)}")
    sessions, images = [session(part), session(whole)], np.load(inputs)
    names = [each.get_inputs()[0].name for each in sessions]
    for number, each in enumerate(sessions):
        each.run(None, {names[number]: images[:1]})
    taken = np.zeros((int(rounds), len(images), 2))
    for turn in range(int(rounds)):
        for place in range(len(images)):
            for number in (0, 1) if (place + turn) % 2 else (1, 0):
                begun = time.perf_counter()
                sessions[number].run(None, {names[number]: images[place : place + 1]})
                taken[turn, place, number] = 1000 * (time.perf_counter() - begun)
    # The least of the rounds is taken of every input: on a busy machine the longer of two runs is interrupted more often.
    part_ms, whole_ms = np.min(taken, 0).T
    print(
        json.dumps(
            {
                "ratio": float(part_ms.sum() / whole_ms.sum()),
                "ratio_of_rounds": (taken[..., 0].sum(1) / taken[..., 1].sum(1)).round(4).tolist(),
                "part_ms": {"mean": float(part_ms.mean()), **{f"p{q}": float(np.percentile(part_ms, q)) for q in (10, 50, 90)}},
                "whole_ms": {"mean": float(whole_ms.mean())},
                "inputs": len(images),
            }
        )
    )


if __name__ == "__main__":
    main()
