from tests.cases.prelude import *

# microsoft/onnxruntime#24815: Gemm whose bias has shape (1, 10), as onnxsim leaves it on mnist-12; also (10, 1)-free scalars and a full matrix.
W = rng.standard_normal
for tag, shape in (("row", (1, 10)), ("one", (1,)), ("scalar", ())):
    build(
        [
            H.make_node("Conv", ["x", "k", "kb"], ["c"], "conv"),
            H.make_node("Relu", ["c"], ["r"]),
            H.make_node("Flatten", ["r"], ["f"]),
            H.make_node("Gemm", ["f", "w", "b"], ["y"], "gemm"),
        ],
        [("x", 1, ["n", 1, 6, 6])],
        [("y", 1, ["n", 10])],
        {
            "k": W((4, 1, 3, 3)).astype("f"),
            "kb": W(4).astype("f"),
            "w": (W((64, 10)) * 0.2).astype("f"),
            "b": W(shape).astype("f") if shape else np.float32(0.3),
        },
        tag + ".onnx",
        opset=12,
        ir=7,
    )
    data((1, 6, 6), model=tag + ".onnx", name=tag + ".npz")
    for t, s in (("static", STATIC), ("dynamic", DYNAMIC), ("prune", PRUNE)):
        job(f"{tag}_{t}", s, model=tag + ".onnx", data=tag + ".npz")
