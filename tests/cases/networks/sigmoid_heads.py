from tests.cases.prelude import *

# yoshitomo-matsubara/torchdistill#211, tripdancer0916/keras-knowledge-distillation#1: binary network with one sigmoid output, several independent sigmoids, softmax at the end.
for tag, head, k in (
    ("binary", nn.Sigmoid(), 1),
    ("logit", nn.Identity(), 1),
    ("multi", nn.Sigmoid(), 3),
    ("softmax", nn.Softmax(1), 3),
    ("logsoftmax", nn.LogSoftmax(1), 3),
):
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, k), head)
    export(net, torch.randn(2, 8), tag + ".onnx")
    x, z = (rng.standard_normal((n, 8)).astype("f") for n in (64, 32))
    g = lambda v: (lambda y: (y[:, 0] > (0.5 if tag == "binary" else 0)).astype(int) if k == 1 else y.argmax(1))(
        net(torch.tensor(v)).detach().numpy()
    )
    np.savez(OUT / f"{tag}.npz", x_train=x, y_train=g(x), x_test=z, y_test=g(z))
    for t, s in (
        ("distil", {"method": "distillation", "iterations": 20}),
        ("static", STATIC),
        ("prune", PRUNE),
        ("train", {"method": "train", "iterations": 20}),
    ):
        job(f"{tag}_{t}", s, model=tag + ".onnx", data=tag + ".npz")
