#include "engine/models/decoder.h"

#include <cmath>
#include <optional>
#include <stdexcept>

namespace limpet::engine {
namespace {

class Builder {
 public:
  Builder(const ModelConfig& config, const DecoderStyle& style, const hir::Bounds& bounds)
      : c_(config), style_(style) {
    m_.bounds = bounds;
    const RopeConfig& rope = config.rope;
    m_.rope_frequencies = rope_frequencies(rope, config.head_dim);
    if (rope.kind == RopeKind::dynamic) {
      m_.rope_growth = {rope.theta, rope.factor, static_cast<int64_t>(rope.original_context),
                        rope.least_length};
    }
  }

  hir::Module build() {
    const auto table = m_.weight("model.embed_tokens.weight", {c_.vocab, c_.hidden});
    hir::Value x = m_.embed(table);
    for (int64_t i = 0; i < c_.layers; ++i) x = layer(x, i);
    x = m_.select(x);
    x = m_.norm(x, m_.weight("model.norm.weight", {c_.hidden}), c_.norm_eps);
    m_.output("hidden", x);
    const auto head = c_.tied_embeddings ? table
                                         : m_.weight("lm_head.weight", {c_.vocab, c_.hidden});
    m_.output("logits", m_.project(x, head));
    return std::move(m_);
  }

 private:
  hir::Value project(hir::Value x, const std::string& name, int64_t n, int64_t k, bool bias) {
    const auto weight = m_.weight(name + ".weight", {n, k});
    std::optional<hir::Weight> b;
    if (bias) b = m_.weight(name + ".bias", {n});
    return m_.project(x, weight, b);
  }

  hir::Value layer(hir::Value x, int64_t i) {
    const std::string p = "model.layers." + std::to_string(i) + ".";
    const auto normed = m_.norm(x, m_.weight(p + "input_layernorm.weight", {c_.hidden}),
                                c_.norm_eps);
    x = m_.sum(attention(normed, p + "self_attn.", i), x);
    const auto y = m_.norm(x, m_.weight(p + "post_attention_layernorm.weight", {c_.hidden}),
                           c_.norm_eps);
    const auto gate = project(y, p + "mlp.gate_proj", c_.intermediate, c_.hidden, style_.mlp_bias);
    const auto up = project(y, p + "mlp.up_proj", c_.intermediate, c_.hidden, style_.mlp_bias);
    const auto down = project(m_.gate(gate, up), p + "mlp.down_proj", c_.hidden, c_.intermediate,
                              style_.mlp_bias);
    return m_.sum(down, x);
  }

  hir::Value attention(hir::Value x, const std::string& p, int64_t i) {
    const int64_t q_width = c_.heads * c_.head_dim, kv_width = c_.kv_heads * c_.head_dim;
    auto q = project(x, p + "q_proj", q_width, c_.hidden, style_.qkv_bias);
    auto k = project(x, p + "k_proj", kv_width, c_.hidden, style_.qkv_bias);
    const auto v = project(x, p + "v_proj", kv_width, c_.hidden, style_.qkv_bias);
    if (style_.head_norm) {
      q = m_.norm(q, m_.weight(p + "q_norm.weight", {c_.head_dim}), c_.norm_eps, c_.heads);
      k = m_.norm(k, m_.weight(p + "k_norm.weight", {c_.head_dim}), c_.norm_eps, c_.kv_heads);
    }
    hir::Attend attend{.layer = i, .heads = c_.heads, .kv_heads = c_.kv_heads,
                       .head_dim = c_.head_dim,
                       .window = c_.window[static_cast<size_t>(i)]};
    // All of q and k is rotated, so what scales their cosines and sines scales their products.
    const double rotated = c_.rope.attention_factor * c_.rope.attention_factor;
    attend.scale = static_cast<float>(rotated / std::sqrt(static_cast<double>(c_.head_dim)));
    return project(m_.attend(attend, q, k, v), p + "o_proj", c_.hidden, q_width,
                   style_.output_bias);
  }

  const ModelConfig& c_;
  const DecoderStyle& style_;
  hir::Module m_;
};

}  // namespace

hir::Module build_decoder(const ModelConfig& config, const hir::Bounds& bounds,
                          const DecoderStyle& style) {
  return Builder(config, style, bounds).build();
}

std::vector<hir::WeightDecl> layer_weights(const ModelConfig& c, const std::string& p,
                                           const DecoderStyle& style) {
  const int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  std::vector<hir::WeightDecl> all = {{p + "input_layernorm.weight", {c.hidden}},
                                      {p + "post_attention_layernorm.weight", {c.hidden}},
                                      {p + "self_attn.q_proj.weight", {q, c.hidden}},
                                      {p + "self_attn.k_proj.weight", {kv, c.hidden}},
                                      {p + "self_attn.v_proj.weight", {kv, c.hidden}},
                                      {p + "self_attn.o_proj.weight", {c.hidden, q}},
                                      {p + "mlp.gate_proj.weight", {c.intermediate, c.hidden}},
                                      {p + "mlp.up_proj.weight", {c.intermediate, c.hidden}},
                                      {p + "mlp.down_proj.weight", {c.hidden, c.intermediate}}};
  if (style.qkv_bias) {
    all.push_back({p + "self_attn.q_proj.bias", {q}});
    all.push_back({p + "self_attn.k_proj.bias", {kv}});
    all.push_back({p + "self_attn.v_proj.bias", {kv}});
  }
  if (style.head_norm) {
    all.push_back({p + "self_attn.q_norm.weight", {c.head_dim}});
    all.push_back({p + "self_attn.k_norm.weight", {c.head_dim}});
  }
  return all;
}

std::vector<hir::WeightDecl> no_prediction_weights(const ModelConfig& config) {
  if (config.prediction_layers > 0) {
    throw std::runtime_error(config.architecture + " with num_nextn_predict_layers is not "
                             "supported; set it to 0 to use the trunk alone");
  }
  return {};
}

}  // namespace limpet::engine
