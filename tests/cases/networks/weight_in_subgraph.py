from tests.cases.prelude import *

# microsoft/onnxruntime#7300, #7707, huggingface/optimum#1687: a weight of the outer graph is read inside of If as well.
W = rng.standard_normal
f = lambda *s: (W(s) * 0.3).astype("f")
o = lambda n: H.make_tensor_value_info(n, 1, None)
then = H.make_graph(
    [H.make_node("MatMul", ["r", "W"], ["t0"], "inner_mm"), H.make_node("Add", ["t0", "B"], ["t"], "inner_add")], "then", [], [o("t")]
)
other = H.make_graph([H.make_node("MatMul", ["r", "V"], ["e"], "else_mm")], "else", [], [o("e")], [N.from_array(f(16, 16), "V")])
build(
    [
        H.make_node("MatMul", ["x", "W"], ["h"], "outer_mm"),
        H.make_node("Relu", ["h"], ["r"], "r"),
        H.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        H.make_node("Greater", ["s", "zero"], ["c"]),
        H.make_node("If", ["c"], ["z"], "if", then_branch=then, else_branch=other),
        H.make_node("MatMul", ["z", "U"], ["y"], "last"),
    ],
    [("x", 1, ["n", 16])],
    [("y", 1, ["n", 4])],
    {"W": f(16, 16), "B": f(16), "U": f(16, 4), "zero": np.float32(0)},
)
data((16,))
job("dynamic", DYNAMIC)
job("static", STATIC)
job("prune", PRUNE)
