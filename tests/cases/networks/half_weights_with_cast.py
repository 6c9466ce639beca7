from tests.cases.prelude import *

# microsoft/onnxruntime#13358, inference-examples#363: weights and biases stored as float16 and cast to float32 before use; and a pure float16 network.
W = rng.standard_normal
f = lambda *s: (W(s) * 0.3).astype(np.float16)
ws = {"w": f(8, 3, 3, 3), "b": f(8), "v": f(5, 8), "c": f(5)}
casts = [H.make_node("Cast", [k], [f"InsertedCast_{k}"], f"InsertedCast_{k}", to=1) for k in ws]
body = lambda p: [
    H.make_node("Conv", ["x", p + "w", p + "b"], ["h"], "conv", pads=[1] * 4),
    H.make_node("Relu", ["h"], ["r"]),
    H.make_node("GlobalAveragePool", ["r"], ["p"]),
    H.make_node("Flatten", ["p"], ["f"]),
    H.make_node("Gemm", ["f", p + "v", p + "c"], ["y"], "fc", transB=1),
]
build(casts + body("InsertedCast_"), [("x", 1, ["n", 3, 6, 6])], [("y", 1, ["n", 5])], ws, "cast.onnx")
build(body(""), [("x", 10, ["n", 3, 6, 6])], [("y", 10, ["n", 5])], ws, "half.onnx")
data((3, 6, 6), model="cast.onnx", name="cast.npz")
for m in ("cast", "half"):
    for t, s in (("static", STATIC), ("dynamic", DYNAMIC), ("prune", PRUNE), ("distil", {"method": "distillation", "iterations": 2})):
        job(f"{m}_{t}", s, model=m + ".onnx", data="cast.npz")
