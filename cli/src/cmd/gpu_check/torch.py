# The same work in PyTorch, for comparison: seconds of each case, one JSON object a line.
import json
import sys

try:
    import torch
    import torch.nn.functional as F

    if not torch.cuda.is_available():
        raise RuntimeError("PyTorch sees no GPU")
except Exception as error:
    print(json.dumps({"error": str(error)}))
    sys.exit(0)

print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda}), flush=True)
torch.manual_seed(1)


def random(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def block(tokens, width, heads, ffn, text):
    """A block of the transformer as it is usually written."""
    x = torch.randn(tokens, width, device="cuda")
    e = torch.randn(6, width, device="cuda")
    context = random(text, width)
    square = [random(width, width) * 0.02 for _ in range(8)]
    up, down = random(ffn, width) * 0.02, random(width, ffn) * 0.02
    ones = torch.ones(width, device="cuda", dtype=torch.bfloat16)
    angles = torch.randn(tokens, 1, width // heads // 2, device="cuda")
    rotation = torch.polar(torch.ones_like(angles), angles)

    def split(y):
        return y.view(1, -1, heads, width // heads).transpose(1, 2)

    def rotate(y):
        pairs = torch.view_as_complex(y.float().view(tokens, heads, -1, 2)) * rotation
        return torch.view_as_real(pairs).flatten(1).to(torch.bfloat16)

    def attend(q, k, v):
        out = F.scaled_dot_product_attention(split(q), split(k), split(v))
        return out.transpose(1, 2).reshape(-1, width)

    def norm(y):
        return F.layer_norm(y, (width,))

    def run():
        h = (norm(x) * (1 + e[1]) + e[0]).to(torch.bfloat16)
        q, k, v = (F.linear(h, w) for w in square[:3])
        q, k = (rotate(F.rms_norm(y, (width,), ones)) for y in (q, k))
        y = x + F.linear(attend(q, k, v), square[3]).float() * e[2]
        h = norm(y).to(torch.bfloat16)
        q = F.rms_norm(F.linear(h, square[4]), (width,), ones)
        k, v = F.rms_norm(F.linear(context, square[5]), (width,), ones), F.linear(context, square[6])
        y = y + F.linear(attend(q, k, v), square[7]).float()
        h = (norm(y) * (1 + e[4]) + e[3]).to(torch.bfloat16)
        h = F.linear(F.gelu(F.linear(h, up), approximate="tanh"), down)
        return y + h.float() * e[5]

    return run


def work(kind, sizes):
    if kind == "linear":
        m, n, k = sizes
        x, w = random(m, k), random(n, k)
        return lambda: F.linear(x, w)
    if kind == "attention":
        heads, rows, width = sizes
        q, k, v = (random(1, heads, rows, width) for _ in range(3))
        return lambda: F.scaled_dot_product_attention(q, k, v)
    if kind == "conv":
        channels, frames, height, width = sizes
        x = random(1, channels, frames, height, width).to(memory_format=torch.channels_last_3d)
        w = random(channels, channels, 3, 3, 3).to(memory_format=torch.channels_last_3d)
        return lambda: F.conv3d(x, w, padding=1)
    if kind == "copy":
        x = torch.empty(sizes[0], device="cuda", dtype=torch.uint8)
        y = torch.empty_like(x)
        return lambda: y.copy_(x)
    return block(*sizes)


with torch.inference_mode():
    for case in json.loads(sys.argv[1]):
        try:
            run = work(case["kind"], case["sizes"])
            for _ in range(3):
                run()
            times = []
            for _ in range(7):
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                run()
                end.record()
                end.synchronize()
                times.append(begin.elapsed_time(end) * 1e-3)
            print(json.dumps({"name": case["name"], "seconds": sorted(times)[3]}), flush=True)
            del run
        except Exception as error:
            print(json.dumps({"name": case["name"], "error": str(error)[:200]}), flush=True)
        torch.cuda.empty_cache()
