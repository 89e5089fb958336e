"""Decode steps of Llama-3.1-8B's shapes in PyTorch, to compare limpet with on one card.

The decoder is what PyTorch's users get without another library: KV in buffers of a fixed size, the
step compiled as a whole (torch.compile, fullgraph) and captured in one CUDA graph, which feeds
each step's likeliest token to the next; weights and KV are random, bf16. Two forms of attention are
timed. `mask` attends to the whole buffer under a mask made of the position, as a decoder with fixed
shapes must. `slice` attends to just the context, at a position that stands still: it decodes
nothing that anybody could use, and is the most that the same kernels could give. --tune lets the
compiler search among its own kernels, for one row matrix-vector products among them (slower to
start).

    python3 bench/compiled_decoder.py --limpet-bench build/bin/limpet-bench

prints a JSON line for each point and program, and, with --limpet-bench, the ratio of tokens a
second. Needs PyTorch and a CUDA device; limpet's own build does not.
"""
import argparse
import gc
import json
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, DIM, VOCAB = 4096, 14336, 32, 32, 8, 128, 128256
MARKS = {1: 1.2, 8: 1.15, 64: 1.08}  # limpet's tokens a second over PyTorch's, by batch


class Weights:
    """One set for all points: 15 GB of bf16."""

    def __init__(self, device):
        generator = torch.Generator(device=device).manual_seed(1)

        def matrix(n, k):
            w = torch.empty(n, k, dtype=torch.bfloat16, device=device)
            return w.uniform_(-(3 / k) ** 0.5, (3 / k) ** 0.5, generator=generator)

        def norm():
            return torch.ones(HIDDEN, dtype=torch.bfloat16, device=device)

        self.table = matrix(VOCAB, HIDDEN)
        self.head = matrix(VOCAB, HIDDEN)
        self.norm = norm()
        self.layers = [
            (norm(), matrix((HEADS + 2 * KV_HEADS) * DIM, HIDDEN), matrix(HIDDEN, HEADS * DIM),
             norm(), matrix(2 * INNER, HIDDEN), matrix(HIDDEN, INNER))
            for _ in range(LAYERS)]

    def bytes(self):
        every = [self.head] + [w for layer in self.layers for w in layer]
        return sum(w.numel() * w.element_size() for w in every)


def rope_table(length, device):
    angles = torch.outer(torch.arange(length, device=device, dtype=torch.float32),
                         500000.0 ** (-torch.arange(0, DIM, 2, device=device) / DIM))
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def rotated(x, cos, sin):
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)


def make_step(weights, keys, values, rope, context, masked):
    """tokens [batch], position [1] -> the next tokens; appends to the KV buffers."""
    batch, length = keys[0].shape[0], keys[0].shape[2]
    places = torch.arange(length, device=rope.device)

    def attend(q, k, v, position):
        if not masked:
            return F.scaled_dot_product_attention(q, k[:, :, :context], v[:, :, :context],
                                                  enable_gqa=True)
        seen = (places <= position).view(1, 1, 1, length)
        # The query heads of a KV head are rows of one product: KV is read once for all of them.
        q = q.view(batch, KV_HEADS, HEADS // KV_HEADS, DIM)
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return o.reshape(batch, HEADS, 1, DIM)

    def step(tokens, position):
        cos, sin = rope[position].chunk(2, dim=-1)
        x = F.embedding(tokens, weights.table)
        for i, (norm, qkv, out, mlp_norm, gate_up, down) in enumerate(weights.layers):
            h = F.linear(F.rms_norm(x, (HIDDEN,), norm, 1e-5), qkv)
            q, k, v = h.view(batch, -1, DIM).split([HEADS, KV_HEADS, KV_HEADS], dim=1)
            q, k = rotated(q, cos, sin), rotated(k, cos, sin)
            keys[i].index_copy_(2, position, k.unsqueeze(2))
            values[i].index_copy_(2, position, v.unsqueeze(2))
            o = attend(q.unsqueeze(2), keys[i], values[i], position)
            x = x + F.linear(o.reshape(batch, HEADS * DIM), out)
            gate, up = F.linear(F.rms_norm(x, (HIDDEN,), mlp_norm, 1e-5), gate_up).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate) * up, down)
        logits = F.linear(F.rms_norm(x, (HIDDEN,), weights.norm, 1e-5), weights.head)
        return logits.argmax(dim=-1)

    return step


def captured(step, tokens, position, moves):
    """A graph of one step that takes its tokens from the step before, and moves on by `moves`."""
    def whole():
        tokens.copy_(step(tokens, position))
        position.add_(moves)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            whole()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        whole()
    return graph


def timed(graph, steps):
    seconds = []
    for _ in range(3):
        graph.replay()
    torch.cuda.synchronize()
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(steps):
            graph.replay()
        torch.cuda.synchronize()
        seconds.append((time.perf_counter() - start) / steps)
    return statistics.median(seconds)


def run_point(weights, batch, context, form, args):
    device = weights.table.device
    masked = form == "mask"
    steps_in_all = 8 + 5 * args.steps
    length = context + steps_in_all if masked else context
    length = (length + 63) // 64 * 64
    shape = (batch, KV_HEADS, length, DIM)

    def cache():
        return [torch.rand(shape, dtype=torch.bfloat16, device=device).sub_(0.5)
                for _ in range(LAYERS)]

    keys, values, rope = cache(), cache(), rope_table(length, device)
    tokens = torch.randint(0, VOCAB, (batch,), device=device)
    first = context if masked else context - 1
    position = torch.tensor([first], device=device)
    torch._dynamo.reset()
    start = time.perf_counter()
    step = torch.compile(make_step(weights, keys, values, rope, context, masked),
                         fullgraph=True, dynamic=False)
    with torch.no_grad():
        graph = captured(step, tokens, position, 1 if masked else 0)
        compile_seconds = time.perf_counter() - start
        position.fill_(first)
        seconds = timed(graph, args.steps)
    if not bool((tokens >= 0).all() and (tokens < VOCAB).all()):
        raise RuntimeError("the decoder's tokens are none")
    kv = 2 * LAYERS * KV_HEADS * DIM * 2 * context * batch
    return {"bench": "compiled_decoder", "who": "torch", "version": torch.__version__,
            "device": torch.cuda.get_device_name(device), "batch": batch, "context": context,
            "attention": form, "tuned": args.tune, "seconds_per_step": seconds,
            "tokens_per_second": batch / seconds, "bytes_per_step": weights.bytes() + kv,
            "bytes_per_second": (weights.bytes() + kv) / seconds,
            "compile_seconds": compile_seconds}


def limpet_points(program, points, device, steps):
    """limpet-bench decode at the same points; its own lines, by (batch, context)."""
    words = [program, "decode", "--device", device, "--shapes", "llama-3.1-8b", "--random-kv",
             "--steps", str(steps), "--points", ",".join(f"{b}x{c}" for b, c in points)]
    out = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return {(line["batch"], line["context"]): line for line in lines}


def say(line):
    print(json.dumps(line), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", default="1x1024,8x4096,64x2048", help="batch x context")
    parser.add_argument("--attention", default="mask,slice", help="slice, mask or both")
    parser.add_argument("--steps", type=int, default=48, help="in each of five rounds")
    parser.add_argument("--tune", action="store_true", help="let the compiler search")
    parser.add_argument("--limpet-bench", help="path of limpet-bench, to run beside it")
    parser.add_argument("--limpet-device", default="cuda:0")
    args = parser.parse_args()
    points = [tuple(int(n) for n in p.split("x")) for p in args.points.split(",")]
    ours = {}
    if args.limpet_bench:  # first, while the card's memory is free
        ours = limpet_points(args.limpet_bench, points, args.limpet_device, args.steps)
    if args.tune:
        import torch._inductor.config as inductor
        inductor.coordinate_descent_tuning = True
    weights = Weights(torch.device("cuda:0"))
    for batch, context in points:
        own, mark = ours.get((batch, context)), MARKS.get(batch)
        if own is not None:
            say(own)
        for form in args.attention.split(","):
            line = run_point(weights, batch, context, form, args)
            gc.collect()
            torch.cuda.empty_cache()
            say(line)
            if own is None:
                continue
            ratio = own["tokens_per_second"] / line["tokens_per_second"]
            say({"bench": "compiled_decoder", "batch": batch, "context": context,
                 "attention": form, "tuned": args.tune, "ratio": ratio,
                 "torch": line["tokens_per_second"], "limpet": own["tokens_per_second"],
                 "mark": mark, "reached": None if mark is None else ratio >= mark})
    return 0


if __name__ == "__main__":
    sys.exit(main())
