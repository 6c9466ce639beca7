from tests.cases.prelude import *

# microsoft/onnxruntime#25489 (3-D weights, dynamic, per channel: fails when it runs), qualcomm/aimet#1601 (1-D weights), #5432: weights of every rank, Gemm with transA, alpha, beta and a matrix to add.
W = rng.standard_normal
f = lambda *s: (W(s) * 0.4).astype("f")


def net(tag, shape, nodes, ws, out):
    build(nodes, [("x", 1, ["n", *shape])], [("y", 1, ["n", out])], ws, tag + ".onnx")
    data(shape, model=tag + ".onnx", name=tag + ".npz")
    for t, s in (("dynamic", DYNAMIC), ("dynamic_tensor", {**DYNAMIC, "granularity": "tensor"}), ("static", STATIC), ("prune", PRUNE)):
        job(f"{tag}_{t}", s, model=tag + ".onnx", data=tag + ".npz")


fc = [H.make_node("ReduceMean", ["h"], ["m"], axes=[1], keepdims=0), H.make_node("Gemm", ["m", "v", "c"], ["y"], "fc", transB=1)]
net(
    "w3d",
    (4, 8),
    [H.make_node("MatMul", ["x", "w"], ["h0"], "mm"), H.make_node("Add", ["h0", "b"], ["h1"]), H.make_node("Relu", ["h1"], ["h"]), *fc],
    {"w": f(1, 8, 16), "b": f(16), "v": f(5, 16), "c": f(5)},
    5,
)
net(
    "w3d_batched",
    (4, 8),
    [
        H.make_node("Unsqueeze", ["x", "ax"], ["x4"]),
        H.make_node("MatMul", ["x4", "w"], ["h0"], "mm"),
        H.make_node("Relu", ["h0"], ["h1"]),
        H.make_node("ReduceMean", ["h1"], ["h"], axes=[1], keepdims=0),
        *fc,
    ],
    {"w": f(3, 8, 16), "ax": np.array([1]), "v": f(5, 16), "c": f(5)},
    5,
)
net(
    "w1d",
    (4, 8),
    [
        H.make_node("MatMul", ["x", "w"], ["h"], "mm"),
        H.make_node("Relu", ["h"], ["r"]),
        H.make_node("Gemm", ["r", "v", "c"], ["y"], "fc", transB=1),
    ],
    {"w": f(8), "v": f(5, 4), "c": f(5)},
    5,
)
net(
    "left",
    (8,),
    [
        H.make_node("Gemm", ["x", "v0", "c0"], ["g"], "g0", transB=1, alpha=0.5, beta=2.0),
        H.make_node("Relu", ["g"], ["r"]),
        H.make_node("Transpose", ["r"], ["t"], perm=[1, 0]),
        H.make_node("MatMul", ["w", "t"], ["l"], "left"),
        H.make_node("Transpose", ["l"], ["y"], perm=[1, 0]),
    ],
    {"v0": f(16, 8), "c0": f(16), "w": f(5, 16)},
    5,
)
