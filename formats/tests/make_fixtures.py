"""Writes tests/fixtures/: small files as Python, numpy and torch write them, and expected.txt, what they hold, said by Python.

Run by hand (the files are checked in): python make_fixtures.py [GOLDEN [FORMATS]]. With the folders of golden checkpoints and of
synthetic data sets it also rewrites golden.txt and formats.txt. Needs numpy 2, torch 2, easydict.
"""
import argparse, collections, enum, io, os, pathlib, pickle, struct, sys, types, zipfile, zlib
import numpy as np
import torch

HERE = pathlib.Path(__file__).parent / "fixtures"


# --- one line that says all about a value; tests/common/mod.rs writes the same from Rust ---
NAMES = {"float64": "f8", "float32": "f4", "float16": "f2", "bfloat16": "bf2", "int64": "i8", "int32": "i4", "int16": "i2", "int8": "i1", "uint8": "u1", "bool": "b1"}
WIDER = {"uint16": "int32", "uint32": "int64", "uint64": "int64"}


def data(name, shape, raw):
    body = raw.hex() if len(raw) <= 64 else "#%08x" % zlib.crc32(raw)
    return f"{name}({','.join(map(str, shape))})[{body}]"


def array(a):
    if a.dtype.kind in "OUS":
        return say(a.tolist())
    if a.dtype.name in WIDER:
        a = a.astype("float64" if a.size and a.max() > 2**63 - 1 else WIDER[a.dtype.name])
    a = np.asarray(a).astype(a.dtype.newbyteorder("<"))
    return data(NAMES[a.dtype.name], a.shape, a.tobytes("C"))


def tensor(t):
    t = t.detach().contiguous()
    name = str(t.dtype).removeprefix("torch.")
    raw = (t.view(torch.int16) if t.dtype == torch.bfloat16 else t).numpy().tobytes()
    return data(NAMES[name], t.shape, raw)


def pairs(d):
    return "{" + ",".join(say(k) + ":" + say(v) for k, v in d.items()) + "}"


def say(v):
    match v:
        case None | bool():
            return str(v)
        case torch.Size():
            return say(tuple(v))
        case torch.Tensor():
            return tensor(v)
        case torch.device():
            return f"<torch.device {say((str(v),))}>"
        case torch.dtype():
            return f"<{v} None>"
        case np.ndarray():
            return array(v)
        case np.generic():
            return say(v.item())
        case enum.Enum():
            return f"<{name_of(v)} {say((v.value,))}>"
        case int():
            return str(v)
        case float():
            return "f:%016x" % struct.unpack("<Q", struct.pack("<d", v))
        case str():
            return "s:" + v
        case bytes() | bytearray():
            return "b:" + bytes(v).hex()
        case argparse.Namespace() | types.SimpleNamespace():
            return f"<{name_of(v)} {pairs(vars(v))}>"
        case dict() if type(v) in (dict, collections.OrderedDict, collections.defaultdict):
            return pairs(v)
        case dict():
            return f"<{name_of(v)} {pairs({**v, **vars(v)})}>"
        case tuple() if type(v) is not tuple:
            return f"<{name_of(v)} {say(tuple(v))}>"
        case tuple():
            return "(" + ",".join(map(say, v)) + ")"
        case collections.deque() | ListLike():
            return f"<{name_of(v)} {say(list(v))}>"
        case list() | set() | frozenset():
            return "[" + ",".join(map(say, v)) + "]"
        case Slots():
            return f"<{name_of(v)} {pairs({k: getattr(v, k) for k in v.__slots__})}>"
        case type():
            return f"<{v.__module__}.{v.__qualname__} None>"
        case _:
            return f"<{name_of(v)} {pairs(vars(v))}>"


def name_of(v):
    return f"{type(v).__module__}.{type(v).__qualname__}"


# --- classes that no reader knows ---
class Plain:
    def __init__(self):
        self.learning_rate, self.layers = 0.5, [1, 2]


class Slots:
    __slots__ = ("a", "b")

    def __init__(self):
        self.a, self.b = 1, "two"


class ListLike(list):
    pass


class DictLike(dict):
    pass


class Colour(enum.Enum):
    RED = 3


Point = collections.namedtuple("Point", "x y")
for c in (Plain, Slots, ListLike, DictLike, Colour, Point):
    c.__module__ = "somewhere.unknown"
somewhere = types.ModuleType("somewhere")
unknown = types.ModuleType("somewhere.unknown")
for c in (Plain, Slots, ListLike, DictLike, Colour, Point):
    setattr(unknown, c.__name__, c)
somewhere.unknown = unknown
sys.modules.update({"somewhere": somewhere, "somewhere.unknown": unknown})


class Attack:
    def __reduce__(self):
        return os.system, ("touch /tmp/poselift-was-attacked",)


def plain_data():
    shared = ["shared", 1]
    return {
        "none": None, "yes": True, "no": False, "small": 7, "negative": -1, "word": 40_000, "int": -2_000_000_000, "long": 2**40, "longer": -(2**62),
        "pi": 3.141592653589793, "infinity": float("inf"), "text": "Grüße \u4f60\u597d \U0001f600", "bytes": b"\x00\x01\xfe\xff", "empty": [[], (), {}, b"", ""],
        "one": (1,), "two": (1, 2), "three": (1, 2, 3), "four": (1, 2, 3, 4), "nested": {"a": {"b": [{"c": (None, [1.5])}]}}, 3: "integer key",
        "set": {11}, "frozen": frozenset([12]), "shared": [shared, shared], "array": bytearray(b"abc"),
        "ordered": collections.OrderedDict(x=1, y=2), "default": collections.defaultdict(list, z=[1]), "many": list(range(300)),
    }


def arrays():
    a = np.arange(24, dtype="f4").reshape(2, 3, 4)
    objects = np.empty((2, 3), dtype=object)
    objects[:] = [[1, "two", None], [[4], {"five": 5}, 6.5]]
    return {
        "c": a, "fortran": np.asfortranarray(a), "transposed": a.transpose(1, 0, 2), "strided": a[:, ::2], "reversed": a[::-1], "big": a.astype(">f4"),
        "f8": a.astype("f8")[0], "f2": a.astype("f2")[0], "i8": a.astype("i8")[0], "i4": -a.astype("i4")[0], "i2": -a.astype("i2")[0], "i1": -a.astype("i1")[0],
        "u1": a.astype("u1")[0], "u2": np.array([1, 65535], "u2"), "u4": np.array([1, 2**32 - 1], "u4"), "u8": np.array([1, 2**63 - 1], "u8"),
        "u8_large": np.array([1, 2**64 - 1], "u8"), "u2_big": np.array([1, 2], ">u2"), "bool": np.array([True, False]), "zero_axes": np.array(2.5),
        "empty": np.zeros((0, 3), "f4"), "text": np.array(["left", "Grüße"]), "text_2": np.array([["a", "b"], ["c", "dd"]]), "text_big": np.array(["xy"], ">U2"),
        "bytes": np.array([b"ab", b"c"]), "object_0": np.array({"inside": [1]}, dtype=object), "object_1": np.array([None, "x"], dtype=object), "object_2": objects,
        "object_fortran": np.asfortranarray(objects), "scalar_f4": np.float32(1.5), "scalar_f8": np.float64(2.5), "scalar_i8": np.int64(-3), "scalar_bool": np.bool_(True),
        "scalar_text": np.str_("name"), "type": np.float32,
    }


def classes():
    d, l = DictLike(inside=1), ListLike([1, 2])
    d.attribute = 2
    return {"plain": Plain(), "slots": Slots(), "dict": d, "list": l, "enum": Colour.RED, "tuple": Point(1, 2),
            "namespace": argparse.Namespace(epochs=3, lr=0.1), "simple": collections.deque([1, 2])}


def tensors():
    torch.manual_seed(0)
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    attributed = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    attributed.note = "kept"
    return {
        "base": base, "transposed": base.T, "column": base[:, 2], "window": base[1:3, 2:5], "tied": base, "expanded": torch.tensor([[7.0]]).expand(2, 3),
        "f64": base[0].double(), "f16": base[0].half(), "bf16": base[0].bfloat16(), "i64": base[0].long(), "i32": base[0].int(), "i16": base[0].short(), "i8": base[0].char(),
        "u8": base[0].byte(), "bool": base[0] > 2, "scalar": torch.tensor(5), "empty": torch.zeros(0, 3), "parameter": torch.nn.Parameter(torch.ones(2)),
        "attributed": attributed, "size": base.shape, "nested": {"state": {0: {"step": torch.tensor(3.0)}}}, "dtype": torch.float32, "device": torch.device("cpu"),
        "strided_4d": torch.arange(120.0).reshape(2, 3, 4, 5).permute(3, 1, 0, 2),
    }


def main():
    HERE.mkdir(exist_ok=True)
    expected = {}

    def write(name, raw, line):
        (HERE / name).write_bytes(raw)
        expected[name] = line

    for protocol in range(6):
        write(f"plain_{protocol}.pkl", pickle.dumps(plain_data(), protocol), say(plain_data()))
        write(f"classes_{protocol}.pkl", pickle.dumps({k: v for k, v in classes().items() if protocol >= 2 or k not in ("slots", "tuple")}, protocol),
              say({k: v for k, v in classes().items() if protocol >= 2 or k not in ("slots", "tuple")}))
        write(f"arrays_{protocol}.pkl", pickle.dumps(arrays(), protocol), say(arrays()))
    (HERE / "attack.pkl").write_bytes(pickle.dumps({"before": 1, "attack": Attack(), "after": 2}, 2))

    for name, legacy in (("tensors.pth", False), ("tensors_legacy.pth", True)):
        out = io.BytesIO()
        torch.save(tensors(), out, _use_new_zipfile_serialization=not legacy)
        write(name, out.getvalue(), say(tensors()))
    # what a compressing tool makes of it, and what a big-endian machine would have written
    big = {"f4": torch.arange(3.0), "i8": torch.arange(3), "u1": torch.arange(3, dtype=torch.uint8)}
    source = io.BytesIO()
    torch.save(big, source)
    for name, method, swap in (("deflated.pth", zipfile.ZIP_DEFLATED, False), ("big_endian.pth", zipfile.ZIP_STORED, True)):
        out = io.BytesIO()
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(out, "w", method) as new:
            for member in old.namelist():
                raw = old.read(member)
                if swap and member.endswith("byteorder"):
                    raw = b"big"
                elif swap and "/data/" in member:
                    raw = raw[::-1] if len(raw) == 3 else np.frombuffer(raw, f"u{len(raw) // 3}").byteswap().tobytes()
                    raw = raw if len(raw) != 3 else raw[::-1]
                new.writestr(member, raw)
        write(name, out.getvalue(), say(big))

    for name, a in arrays().items():
        if isinstance(a, np.ndarray) and not name.startswith("strided"):
            out = io.BytesIO()
            np.save(out, a, allow_pickle=True)
            write(f"{name}.npy", out.getvalue(), say(a))
    for version in ((2, 0), (3, 0)):
        out = io.BytesIO()
        np.lib.format.write_array(out, arrays()["c"], version)
        write(f"version_{version[0]}.npy", out.getvalue(), say(arrays()["c"]))
    members = {k: v for k, v in arrays().items() if k in ("c", "fortran", "text", "object_0", "bool")}
    for name, save in (("stored.npz", np.savez), ("compressed.npz", np.savez_compressed)):
        out = io.BytesIO()
        save(out, **members)
        write(name, out.getvalue(), say(dict(sorted(members.items()))))

    (HERE / "expected.txt").write_text("".join(f"{k}\t{v}\n" for k, v in expected.items()))
    (HERE / "golden.txt").unlink(missing_ok=True) if len(sys.argv) > 1 else None
    if len(sys.argv) > 1:
        root = pathlib.Path(sys.argv[1])
        lines = []
        for p in sorted(root.rglob("*.pth*")):
            v = torch.load(p, map_location="cpu", weights_only=False)
            lines.append(f"{p.relative_to(root)}\t{zlib.crc32(say(v).encode()):08x}\t{state_dict(v)}\n")
        (HERE / "golden.txt").write_text("".join(lines))
    if len(sys.argv) > 2:
        root = pathlib.Path(sys.argv[2])
        lines = []
        for p in sorted([*root.rglob("*.pkl"), *root.rglob("*.npz")]):
            v = pickle.loads(p.read_bytes()) if p.suffix == ".pkl" else {k: a for k, a in sorted(np.load(p, allow_pickle=True).items())}
            lines.append(f"{p.relative_to(root)}\t{zlib.crc32(say(v).encode()):08x}\n")
        (HERE / "formats.txt").write_text("".join(lines))


def state_dict(checkpoint):
    """Number of weights, number of elements, first and last name, first element of the first and last element of the last."""
    found = next((checkpoint[k] for k in ("model", "model_state_dict", "state_dict") if k in checkpoint), checkpoint)
    names = [k.replace("module.", "") for k in found]
    values = list(found.values())
    return "\t".join(map(str, (len(names), sum(v.numel() for v in values), names[0], names[-1], float(values[0].flatten()[0]), float(values[-1].flatten()[-1]))))


if __name__ == "__main__":
    main()
