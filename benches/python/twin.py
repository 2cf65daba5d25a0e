"""MotionAGFormer and MotionAGFormer + MambaGCN in plain PyTorch, to measure poselift's training step against.

Written from a description of the architecture, and computing as the published code does: the graphs' D^-1/2 A D^-1/2 as products of dense
diagonal matrices, attention as matmul, softmax, matmul, the selective scan as a loop over time. The names of the modules are those of the
published state dicts, so that checkpoints load unchanged; `check_twin.py` proves outputs, gradients and optimiser steps on golden vectors.

B batch, T frames, J = 17 joints, C channels, h heads; S = B J sequences of L = T frames, E = 2 C inner channels, N states.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

JOINTS = 17

# MotionAGFormer's list of neighbours: directed, neither symmetric nor with self loops.
NEIGHBOURS = {
    0: [1, 7], 1: [2, 0], 2: [3, 1], 3: [2], 4: [5, 0], 5: [6, 4], 6: [5], 7: [0, 8], 8: [7, 9], 9: [8, 10], 10: [9],
    11: [12, 8], 12: [13, 11], 13: [12], 14: [15, 8], 15: [16, 14], 16: [15],
}  # fmt: skip
BONES = [(0, 1), (1, 2), (2, 3), (0, 4), (4, 5), (5, 6), (0, 7), (7, 8), (8, 9), (9, 10), (8, 11), (11, 12), (12, 13), (8, 14), (14, 15), (15, 16)]
# left and right exchanged
FLIPPED = [0, 4, 5, 6, 1, 2, 3, 7, 8, 9, 10, 14, 15, 16, 11, 12, 13]


@dataclass
class MambaGcnConfig:
    """The third branch."""

    mamba: str = "selective"  # or "global-mean", the shortcut that the original's files were trained with
    use_attention: bool = False
    d_state: int = 16
    d_conv: int = 4
    dropout: float = 0.1


@dataclass
class Config:
    """What shapes a model; the defaults are the official Base."""

    n_layers: int = 16
    dim_in: int = 3
    dim_feat: int = 128
    dim_rep: int = 512
    dim_out: int = 3
    mlp_ratio: int = 4
    num_heads: int = 8
    neighbour_num: int = 2
    n_frames: int = 243
    mamba_gcn: MambaGcnConfig | None = None


MODELS = {
    "xs": Config(n_layers=12, dim_feat=64, n_frames=27),
    "s": Config(n_layers=26, dim_feat=64, n_frames=81),
    "b": Config(),
    "l": Config(n_layers=26),
    "mamba-gcn": Config(dim_in=2, num_heads=4, neighbour_num=4, mamba_gcn=MambaGcnConfig()),
}


def normalised(adjacency: Tensor) -> Tensor:
    """D^-1/2 A D^-1/2 with dense diagonal matrices: (..., n, n) -> (..., n, n)."""
    scale = torch.diag_embed(adjacency.sum(-1) ** -0.5)
    return scale @ adjacency @ scale


class Attention(nn.Module):
    """Multi-head self-attention over J within a frame, or over T within a joint."""

    def __init__(self, channels: int, heads: int, mode: str):
        super().__init__()
        self.heads, self.mode, self.scale = heads, mode, (channels // heads) ** -0.5
        self.proj = nn.Linear(channels, channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, t, j, c = x.shape
        qkv = self.qkv(x).reshape(b, t, j, 3, self.heads, c // self.heads).permute(3, 0, 4, 1, 2, 5)  # (3, B, h, T, J, C / h)
        q, k, v = qkv[0], qkv[1], qkv[2]
        if self.mode == "temporal":
            q, k, v = (part.transpose(2, 3) for part in (q, k, v))  # (B, h, J, T, C / h)
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        out = weights @ v
        if self.mode == "temporal":
            out = out.transpose(2, 3)
        return self.proj(out.permute(0, 2, 3, 1, 4).reshape(b, t, j, c))


class GraphConvolution(nn.Module):
    """relu(x + BN(A_n V(x) + U(x))) over joints (a fixed graph) or over frames (each frame's most similar ones)."""

    def __init__(self, channels: int, nodes: int, mode: str, neighbours: int):
        super().__init__()
        self.mode, self.neighbours = mode, neighbours
        self.U = nn.Linear(channels, channels)
        self.V = nn.Linear(channels, channels)
        self.batch_norm = nn.BatchNorm1d(nodes)
        for linear in (self.U, self.V):
            nn.init.normal_(linear.weight, 0, (2.0 / channels) ** 0.5)
        if mode == "spatial":
            adjacency = torch.zeros(JOINTS, JOINTS)
            for node, others in NEIGHBOURS.items():
                adjacency[node, others] = 1.0
            self.register_buffer("adjacency", adjacency, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        b, t, j, c = x.shape
        if self.mode == "spatial":
            nodes = x.reshape(b * t, j, c)
            adjacency = self.adjacency
        else:
            nodes = x.transpose(1, 2).reshape(b * j, t, c)
            similarity = nodes @ nodes.transpose(1, 2)  # (B J, T, T)
            threshold = similarity.topk(self.neighbours, dim=-1, largest=True)[0][..., -1:]
            adjacency = (similarity >= threshold).to(nodes.dtype)
        out = F.relu(nodes + self.batch_norm(normalised(adjacency) @ self.V(nodes) + self.U(nodes)))
        return out.reshape(b, t, j, c) if self.mode == "spatial" else out.reshape(b, j, t, c).transpose(1, 2)


class Mlp(nn.Module):
    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """x + layer_scale_1 * mixer(norm1(x)), then x + layer_scale_2 * mlp(norm2(x))."""

    def __init__(self, config: Config, mixer: nn.Module):
        super().__init__()
        c = config.dim_feat
        self.norm1 = nn.LayerNorm(c)
        self.mixer = mixer
        self.norm2 = nn.LayerNorm(c)
        self.mlp = Mlp(c, config.mlp_ratio * c)
        self.layer_scale_1 = nn.Parameter(1e-5 * torch.ones(c))
        self.layer_scale_2 = nn.Parameter(1e-5 * torch.ones(c))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.layer_scale_1 * self.mixer(self.norm1(x))
        return x + self.layer_scale_2 * self.mlp(self.norm2(x))


def selective_scan(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t, y_t = C_t . h_t + D u_t: u, delta (S, L, E), a (E, N), b, c (S, L, N) -> (S, L, E)."""
    # unbind, not [:, t]: the gradient of an index is a tensor of zeros as large as what was indexed, once for every frame.
    decays = torch.exp(delta.unsqueeze(-1) * a).unbind(1)  # L of (S, E, N)
    inputs = ((delta * u).unsqueeze(-1) * b.unsqueeze(2)).unbind(1)
    state = torch.zeros_like(inputs[0])
    outputs = []
    for decay, step, c_t in zip(decays, inputs, c.unbind(1)):
        state = decay * state + step
        outputs.append((state @ c_t.unsqueeze(-1)).squeeze(-1))  # (S, E)
    return torch.stack(outputs, 1) + u * d


class Mamba(nn.Module):
    """The Mamba mixer: (S, L, C) -> (S, L, C)."""

    def __init__(self, channels: int, config: MambaGcnConfig):
        super().__init__()
        inner, n = 2 * channels, config.d_state
        self.form = config.mamba
        self.in_proj = nn.Linear(channels, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, config.d_conv, groups=inner, padding=config.d_conv - 1)
        self.x_proj = nn.Linear(inner, 2 * n, bias=False)
        self.dt_proj = nn.Linear(inner, inner)
        self.A_log = nn.Parameter(torch.arange(1, n + 1, dtype=torch.float32).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, channels, bias=False)
        with torch.no_grad():  # softplus^-1 of a log-uniform draw in [1e-3, 1e-1]
            delta = torch.empty(inner).uniform_(-6.907755, -2.302585).exp()
            self.dt_proj.bias.copy_(delta + torch.log(-torch.expm1(-delta)))

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        u, z = self.in_proj(x).chunk(2, dim=-1)  # (S, L, E) each
        u = F.silu(self.conv1d(u.transpose(1, 2))[..., :length].transpose(1, 2))
        b, c = self.x_proj(u).chunk(2, dim=-1)  # (S, L, N) each
        a = -torch.exp(self.A_log)
        if self.form == "selective":
            y = selective_scan(u, F.softplus(self.dt_proj(u)), a, b, c, self.D)
        else:
            y = ((u.mean(1, keepdim=True) @ a) * b * c) @ a.T + u * self.D
        return self.out_proj(y * F.silu(z))


class MambaBranch(nn.Module):
    def __init__(self, channels: int, config: MambaGcnConfig):
        super().__init__()
        self.temporal_model = Mamba(channels, config)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        b, t, j, c = x.shape
        if self.temporal_model.form == "selective":
            y = self.temporal_model(x.transpose(1, 2).reshape(b * j, t, c)).reshape(b, j, t, c).transpose(1, 2)
        else:  # that code forgets the transpose
            y = self.temporal_model(x.reshape(b * j, t, c)).reshape(b, t, j, c)
        return self.norm(y + x)


class GcnLayer(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(channels, channels)))
        self.bias = nn.Parameter(torch.zeros(channels))


class GcnBranch(nn.Module):
    def __init__(self, channels: int, config: MambaGcnConfig):
        super().__init__()
        self.gcn_layers = nn.ModuleList(GcnLayer(channels) for _ in range(2))
        self.norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(config.dropout)
        adjacency = torch.eye(JOINTS)
        for a, b in BONES:
            adjacency[a, b] = adjacency[b, a] = 1.0
        self.register_buffer("adj_matrix", normalised(adjacency))

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for i, layer in enumerate(self.gcn_layers):
            h = self.adj_matrix @ (h @ layer.weight) + layer.bias
            if i == 0:
                h = self.dropout(F.relu(h))
        return self.norm(h + x)


class AttentionBranch(nn.Module):
    """Over T on untransposed sequences, as the original's "full" variant has it."""

    HEADS = 8

    def __init__(self, channels: int, config: MambaGcnConfig):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(channels, channels, bias=False) for _ in range(4))
        self.norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        b, t, j, c = x.shape
        sequences = x.reshape(b * j, t, c)
        q, k, v = (p(sequences).reshape(b * j, t, self.HEADS, c // self.HEADS).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        weights = self.dropout((q @ k.transpose(-2, -1) * (c // self.HEADS) ** -0.5).softmax(-1))
        out = self.out_proj((weights @ v).transpose(1, 2).reshape(b * j, t, c)).reshape(b, t, j, c)
        return self.norm(out + x)


class AdaptiveFusion(nn.Module):
    def __init__(self, channels: int, branches: int):
        super().__init__()
        self.weight_generator = nn.Sequential(nn.Linear(channels, channels // 4), nn.ReLU(), nn.Linear(channels // 4, branches))
        self.fusion_proj = nn.Linear(branches * channels, channels)  # in every file, never used
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, branches: list[Tensor]) -> Tensor:
        weights = self.weight_generator(x.mean((1, 2))).softmax(-1)  # (B, K)
        return self.norm(sum(w[:, None, None, None] * y for w, y in zip(weights.unbind(-1), branches)) + x)


class MambaGcnBlock(nn.Module):
    def __init__(self, channels: int, config: MambaGcnConfig):
        super().__init__()
        branches = {"mamba": MambaBranch(channels, config), "gcn": GcnBranch(channels, config)}
        if config.use_attention:
            branches["attention"] = AttentionBranch(channels, config)
        self.branches = nn.ModuleDict(branches)
        self.fusion = AdaptiveFusion(channels, len(branches))
        self.output_proj = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(channels, channels))
        self.final_norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        fused = self.fusion(x, [branch(x) for branch in self.branches.values()])
        return self.final_norm(self.output_proj(fused) + x)


class Layer(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        c = config.dim_feat
        self.att_spatial = Block(config, Attention(c, config.num_heads, "spatial"))
        self.att_temporal = Block(config, Attention(c, config.num_heads, "temporal"))
        self.graph_spatial = Block(config, GraphConvolution(c, JOINTS, "spatial", config.neighbour_num))
        self.graph_temporal = Block(config, GraphConvolution(c, config.n_frames, "temporal", config.neighbour_num))
        self.mamba_gcn = MambaGcnBlock(c, config.mamba_gcn) if config.mamba_gcn else None
        count = 3 if config.mamba_gcn else 2
        self.fusion = nn.Linear(count * c, count)
        nn.init.constant_(self.fusion.weight, 0.0)
        nn.init.constant_(self.fusion.bias, 1.0 / count)

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.att_temporal(self.att_spatial(x)), self.graph_temporal(self.graph_spatial(x))]
        if self.mamba_gcn is not None:
            branches.append(self.mamba_gcn(x))
        alpha = self.fusion(torch.cat(branches, dim=-1)).softmax(-1)  # (B, T, J, K)
        return sum(branch * alpha[..., k : k + 1] for k, branch in enumerate(branches))


class Twin(nn.Module):
    """(B, T, J, dim_in) -> (B, T, J, 3)."""

    def __init__(self, config: Config):
        super().__init__()
        c = config.dim_feat
        self.joints_embed = nn.Linear(config.dim_in, c)
        self.pos_embed = nn.Parameter(torch.zeros(1, JOINTS, c))
        self.norm = nn.LayerNorm(c)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layers))
        self.rep_logit = nn.Sequential()
        self.rep_logit.add_module("fc", nn.Linear(c, config.dim_rep))
        self.rep_logit.add_module("act", nn.Tanh())
        self.head = nn.Linear(config.dim_rep, config.dim_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.joints_embed(x) + self.pos_embed
        for layer in self.layers:
            x = layer(x)
        return self.head(self.rep_logit(self.norm(x)))


def mirrored(x: Tensor) -> Tensor:
    """x negated, left and right exchanged."""
    x = x[..., FLIPPED, :].clone()
    x[..., 0] *= -1
    return x


def mpjpe(predicted: Tensor, target: Tensor) -> Tensor:
    return (predicted - target).norm(dim=-1).mean()


def n_mpjpe(predicted: Tensor, target: Tensor) -> Tensor:
    """After scaling each frame's prediction."""
    scale = (target * predicted).sum((-2, -1), keepdim=True) / (predicted * predicted).sum((-2, -1), keepdim=True)
    return mpjpe(scale * predicted, target)


def velocity(predicted: Tensor, target: Tensor) -> Tensor:
    return mpjpe(predicted[:, 1:] - predicted[:, :-1], target[:, 1:] - target[:, :-1])


def official_loss(predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
    """mpjpe + 0.5 n_mpjpe + 20 velocity, and its terms."""
    terms = {"mpjpe": mpjpe(predicted, target), "n_mpjpe": n_mpjpe(predicted, target), "velocity": velocity(predicted, target)}
    return {"total": terms["mpjpe"] + 0.5 * terms["n_mpjpe"] + 20 * terms["velocity"], **terms}
