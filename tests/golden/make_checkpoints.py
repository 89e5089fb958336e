"""Writes small random checkpoints and their reference logits: rotary types, head sizes that are no
power of two, shards, dtypes, windows by layer. Needs torch 2 and transformers 5; the result is
committed, so run it only to change a case: python3 tests/golden/make_checkpoints.py"""
import json
import pathlib
import struct

import torch
from transformers import AutoModelForCausalLM, AutoConfig

HERE = pathlib.Path(__file__).parent
SMALL = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "vocab_size": 97,
         "max_position_embeddings": 512, "bos_token_id": None, "eos_token_id": None,
         "pad_token_id": None}

# name: (model_type, config, prompt, steps, dtype of the file, shards, rotary settings in old style)
CASES = {
    "llama-yarn": ("llama", {
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 80, "attention_bias": True,
        "mlp_bias": True, "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
            "original_max_position_embeddings": 32}}, 45, 24, "BF16", 1, True),
    "mistral-yarn-mscale": ("mistral", {
        "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 96,
         "sliding_window": 20,
        "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 50000.0, "factor": 8.0, "mscale": 1.0,
            "mscale_all_dim": 0.5, "beta_fast": 24.0, "beta_slow": 2.0, "truncate": False,
            "original_max_position_embeddings": 64}}, 45, 24, "F32", 1, False),
    "qwen2-dynamic": ("qwen2", {
        "num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": 40,
        "max_position_embeddings": 32, "tie_word_embeddings": True, "use_sliding_window": True,
        "sliding_window": 24, "max_window_layers": 1, "rope_parameters": {
            "rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}}, 50, 24, "F16", 3, True),
    "qwen3-linear": ("qwen3", {
        "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 48, "num_hidden_layers": 3,
        "use_sliding_window": True, "sliding_window": 16,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "rope_parameters": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 2.5}},
        45, 24, "BF16", 2, False),
    "llama-wide-heads": ("llama", {
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 200,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        45, 24, "BF16", 1, True),
}
TORCH = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def save(path, tensors):
    """A safetensors file; tensors: {name: (dtype name, torch tensor)}."""
    header, parts, at = {}, [], 0
    for name, (dtype, t) in sorted(tensors.items()):
        raw = t.contiguous().view(torch.uint8).numpy().tobytes()
        header[name] = {"dtype": dtype, "shape": list(t.shape), "data_offsets": [at, at + len(raw)]}
        parts.append(raw)
        at += len(raw)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def randomize(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if p.dim() == 2:
            p.data = noise * (0.25 if "embed" in name else 1.6 / p.shape[1] ** 0.5)
        else:
            p.data = 0.1 * noise + (1.0 if name.endswith("norm.weight") else 0.0)
        p.data = p.data.to(torch.bfloat16).float()  # exact in every dtype of the files


def reference(model, prompt, steps):
    with torch.no_grad():
        out = model(torch.tensor([prompt]), use_cache=True)
        prefill, rows, ids = out.logits[0], [], []
        row = prefill[-1]
        for i in range(steps):
            rows.append(row)
            ids.append(int(row.argmax()))
            if i + 1 < steps:
                out = model(torch.tensor([[ids[-1]]]), use_cache=True,
                            past_key_values=out.past_key_values)
                row = out.logits[0, -1]
    return prefill, torch.stack(rows), ids


def config_text(config, old_style, dtype):
    d = {k: v for k, v in config.to_dict().items() if not k.startswith("_")}
    for key in ("dtype", "torch_dtype"):
        d.pop(key, None)
    d["torch_dtype"] = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}[dtype]
    if old_style:
        rope = dict(d.pop("rope_parameters"))
        d["rope_theta"] = rope.pop("rope_theta")
        rope.pop("partial_rotary_factor", None)
        d["rope_scaling"] = None if rope["rope_type"] == "default" else rope
        d.pop("layer_types", None)
    return json.dumps(d, indent=1) + "\n"


def make(name, model_type, changes, prompt_length, steps, dtype, shards, old_style):
    config = AutoConfig.for_model(model_type, **{**SMALL, **changes})
    config.architectures = [{"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2",
                             "qwen3": "Qwen3"}[model_type] + "ForCausalLM"]
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    seed = sum(name.encode())
    randomize(model, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    prompt = torch.randint(0, config.vocab_size, (prompt_length,), generator=generator).tolist()
    prefill, rows, ids = reference(model, prompt, steps)
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    weights = {n: (dtype, p.data.to(TORCH[dtype])) for n, p in model.named_parameters()}
    if shards == 1:
        save(folder / "model.safetensors", weights)
    else:
        files = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
        of = {n: files[i % shards] for i, n in enumerate(weights)}
        for file in files:
            save(folder / file, {n: w for n, w in weights.items() if of[n] == file})
        total = sum(p.numel() * TORCH[dtype].itemsize for _, (_, p) in weights.items())
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {"total_size": total}, "weight_map": of}, indent=1) + "\n")
    (folder / "config.json").write_text(config_text(config, old_style, dtype))
    save(folder / "golden.safetensors", {
        "input_ids": ("I32", torch.tensor(prompt, dtype=torch.int32)),
        "prefill_logits": ("F32", prefill), "step_logits": ("F32", rows),
        "greedy_ids": ("I32", torch.tensor(ids, dtype=torch.int32))})
    print(name, "logit std", float(prefill.std()), "distinct", len(set(ids)))


if __name__ == "__main__":
    for name, case in CASES.items():
        make(name, *case)
