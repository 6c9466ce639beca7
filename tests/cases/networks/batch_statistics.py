from tests.cases.prelude import *

# pytorch/pytorch#75252, onnxscript#1791: BatchNormalization with training_mode=1 (no running statistics): every answer depends on the batch.
W = rng.standard_normal
f = lambda *s: (W(s) * 0.5).astype("f")
build(
    [
        H.make_node("Conv", ["x", "w", "b"], ["h"], "c", pads=[1] * 4),
        H.make_node("BatchNormalization", ["h", "g", "be", "m", "v"], ["n", "rm", "rv"], "bn", training_mode=1, epsilon=1e-5),
        H.make_node("Relu", ["n"], ["r"]),
        H.make_node("GlobalAveragePool", ["r"], ["p"]),
        H.make_node("Flatten", ["p"], ["f"]),
        H.make_node("Gemm", ["f", "k", "c"], ["y"], "fc", transB=1),
    ],
    [("x", 1, ["n", 3, 6, 6])],
    [("y", 1, ["n", 5])],
    {"w": f(8, 3, 3, 3), "b": f(8), "g": abs(f(8)) + 0.5, "be": f(8), "m": np.zeros(8, "f"), "v": np.ones(8, "f"), "k": f(5, 8), "c": f(5)},
    opset=15,
)
data((3, 6, 6))
job("same", SAME)
job("prune", PRUNE)
job("static", STATIC)
job("distil", {"method": "distillation", "iterations": 3})
