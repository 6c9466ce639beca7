from tests.cases.prelude import *

# microsoft/onnxruntime#14501, #15093 (some outputs are None after quantize_static), microsoft/Olive#2539 (graph outputs renamed): features as outputs that are read on, an output twice, an input passed through.
W = rng.standard_normal
f = lambda *s: (W(s) * 0.3).astype("f")
build(
    [
        H.make_node("Conv", ["x", "w", "b"], ["feat"], "c1", pads=[1] * 4),
        H.make_node("Relu", ["feat"], ["act"], "r"),
        H.make_node("Conv", ["act", "w2", "b"], ["deep"], "c2", pads=[1] * 4),
        H.make_node("GlobalAveragePool", ["deep"], ["p"]),
        H.make_node("Flatten", ["p"], ["emb"]),
        H.make_node("Gemm", ["emb", "v", "c"], ["y"], "fc", transB=1),
        H.make_node("Identity", ["y"], ["y_again"]),
        H.make_node("Identity", ["x"], ["x_again"]),
    ],
    [("x", 1, ["n", 3, 6, 6])],
    [
        ("y", 1, ["n", 5]),
        ("feat", 1, ["n", 8, 6, 6]),
        ("act", 1, ["n", 8, 6, 6]),
        ("emb", 1, ["n", 8]),
        ("y_again", 1, ["n", 5]),
        ("x_again", 1, ["n", 3, 6, 6]),
    ],
    {"w": f(8, 3, 3, 3), "b": f(8), "w2": f(8, 8, 3, 3), "v": f(5, 8), "c": f(5)},
)
data((3, 6, 6))
job("static", STATIC)
job("dynamic", DYNAMIC)
job("prune", PRUNE)
job("same", SAME)
