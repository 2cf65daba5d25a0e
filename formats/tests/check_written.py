"""Says what Python sees in a file that Rust wrote: `check_written.py FILE`; for a checkpoint with optimizer states
`check_written.py adamw BEFORE` writes one, `check_written.py adamw-resume BEFORE COPY` resumes both and compares."""
import sys
import numpy as np
import torch
from make_fixtures import say


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 2))


def steps(net, optimizer, first, count):
    for step in range(first, first + count):
        torch.manual_seed(step)
        optimizer.zero_grad()
        net(torch.randn(4, 5)).square().mean().backward()
        optimizer.step()
    return [p.detach().clone() for p in net.parameters()]


def resume(path):
    checkpoint = torch.load(path, weights_only=True)
    net = model()
    net.load_state_dict(checkpoint["model"])
    optimizer = torch.optim.AdamW(net.parameters(), lr=123.0)
    optimizer.load_state_dict(checkpoint["optimizer"])
    return steps(net, optimizer, 3, 4)


match sys.argv[1:]:
    case ["adamw", path]:
        net = model()
        optimizer = torch.optim.AdamW(net.parameters(), lr=5e-4, weight_decay=0.01, amsgrad=True)
        steps(net, optimizer, 0, 3)
        torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}, path)
    case ["adamw-resume", before, copy]:
        a, b = resume(before), resume(copy)
        print(all(torch.equal(x, y) for x, y in zip(a, b)))
    case ["adamw-load", path, mapped]:
        # a state that Rust made from nothing
        checkpoint = torch.load(path, weights_only=True, mmap=mapped == "mmap")
        parameter = torch.nn.Parameter(torch.zeros(2, 3))
        optimizer = torch.optim.AdamW([parameter])
        optimizer.load_state_dict(checkpoint["optimizer"])
        parameter.grad = torch.ones(2, 3)
        optimizer.step()
        state = optimizer.state_dict()
        print(state["state"][0]["step"].item(), state["param_groups"][0]["lr"], state["state"][0]["exp_avg"].flatten()[0].item())
    case [path] if path.endswith(".npy"):
        print(say(np.load(path)))
    case [path] if path.endswith(".npz"):
        print(say({k: (v.item() if v.dtype.kind == "U" else v) for k, v in np.load(path).items()}))
    case [path]:
        print(say(torch.load(path, weights_only=True)))
