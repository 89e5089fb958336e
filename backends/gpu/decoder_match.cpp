#include "backends/gpu/decoder_match.h"

#include <algorithm>

namespace limpet {
namespace {

class Matcher {
 public:
  explicit Matcher(const Program& program) : p_(program) {}

  std::optional<MatchedDecoder> run() {
    const ProgramStep* first = next<ops::Embedding>();
    if (first == nullptr) return std::nullopt;
    m_.token_ids = first->inputs[0];
    m_.table = first->inputs[1];
    m_.count = first->count;
    m_.rows = value(first->outputs[0]).shape.rows();
    m_.hidden = value(first->outputs[0]).shape.cols();
    residual_ = first->outputs[0];
    while (layer()) {
    }
    m_.result = residual_;
    const bool whole = !m_.layers.empty() && rope_step_ && dtype(m_.table) == DType::bf16 &&
                       dtype(m_.pool) == DType::bf16 && value(m_.pool).shape[4] == 16;
    if (!whole) return std::nullopt;
    m_.rope_step = *rope_step_;
    m_.rotary = value(m_.rope).shape.cols();
    return m_;
  }

 private:
  const ProgramValue& value(ValueId id) const { return p_.values[static_cast<size_t>(id)]; }
  DType dtype(ValueId id) const { return value(id).dtype; }

  // The next step, but for the rope table's, when it is this op on the count of all rows.
  template <class Op>
  const ProgramStep* next() {
    while (at_ < p_.steps.size() && std::holds_alternative<ops::RopeTable>(p_.steps[at_].op)) {
      if (rope_step_) return nullptr;
      rope_step_ = at_++;
    }
    if (at_ == p_.steps.size() || !std::holds_alternative<Op>(p_.steps[at_].op)) return nullptr;
    const ProgramStep& step = p_.steps[at_];
    if (m_.count != -1 && step.count != m_.count) return nullptr;
    ++at_;
    return &step;
  }
  // A norm of the residual stream, and the weight that reads it.
  template <class Op>
  const ProgramStep* normed(ValueId& norm, float& eps) {
    const ProgramStep* n = next<ops::RmsNorm>();
    if (n == nullptr || n->inputs[0] != residual_) return nullptr;
    const auto& op = std::get<ops::RmsNorm>(n->op);
    norm = n->inputs[1];
    eps = op.eps;
    const ProgramStep* reader = next<Op>();
    const bool reads = op.heads == 1 && reader != nullptr && reader->inputs[0] == n->outputs[0] &&
                       dtype(reader->inputs[1]) == DType::bf16;
    return reads ? reader : nullptr;
  }
  // A product that is added to the residual stream; its weight, or -1.
  ValueId added(ValueId x) {
    const ProgramStep* step = next<ops::Linear>();
    if (step == nullptr || step->inputs[0] != x) return -1;
    const auto& op = std::get<ops::Linear>(step->op);
    const bool plain = op.residual && !op.bias && step->inputs[2] == residual_ &&
                       dtype(step->inputs[1]) == DType::bf16;
    if (!plain) return -1;
    residual_ = step->outputs[0];
    return step->inputs[1];
  }
  // Whether `part` is columns [first, …) of the product `wide`.
  bool is_slice(ValueId part, ValueId wide, int64_t first) const {
    const ProgramValue &a = value(part), &b = value(wide);
    return a.kind == ValueKind::temporary && b.kind == ValueKind::temporary &&
           a.offset == b.offset + first * 4 && a.row_stride == b.shape.cols();
  }

  bool layer() {
    const size_t begin = at_;
    const ValueId residual = residual_;
    MatchedLayer l;
    if (attention(l) && mlp(l)) {
      m_.layers.push_back(l);
      m_.end = at_;
      return true;
    }
    at_ = begin;
    residual_ = residual;
    return false;
  }

  bool attention(MatchedLayer& l) {
    const ProgramStep* qkv = normed<ops::Linear>(l.norm, l.eps);
    if (qkv == nullptr || std::get<ops::Linear>(qkv->op).residual) return false;
    l.qkv = qkv->inputs[1];
    if (std::get<ops::Linear>(qkv->op).bias) l.qkv_bias = qkv->inputs[2];
    const ProgramStep* q_norm = next<ops::RmsNorm>();
    const ProgramStep* k_norm = q_norm != nullptr ? next<ops::RmsNorm>() : nullptr;
    if ((q_norm == nullptr) != (k_norm == nullptr)) return false;
    const ProgramStep* append = next<ops::RopeAppend>();
    if (append == nullptr || !heads(*append, l)) return false;
    const int64_t q_width = m_.heads * m_.head_dim, k_width = m_.kv_heads * m_.head_dim;
    const ValueId wide = qkv->outputs[0];
    ValueId q = append->inputs[0], k = append->inputs[1];
    if (q_norm != nullptr) {
      const auto &a = std::get<ops::RmsNorm>(q_norm->op), &b = std::get<ops::RmsNorm>(k_norm->op);
      const bool fits = q_norm->outputs[0] == q && k_norm->outputs[0] == k && a.heads == m_.heads &&
                        b.heads == m_.kv_heads && a.eps == b.eps;
      if (!fits) return false;
      l.q_norm = q_norm->inputs[1];
      l.k_norm = k_norm->inputs[1];
      l.head_eps = a.eps;
      q = q_norm->inputs[0];
      k = k_norm->inputs[0];
    }
    if (!is_slice(q, wide, 0) || !is_slice(k, wide, q_width) ||
        !is_slice(append->inputs[2], wide, q_width + k_width)) {
      return false;
    }
    const ProgramStep* attend = next<ops::PagedAttention>();
    if (attend == nullptr || attend->inputs[0] != append->outputs[0]) return false;
    const auto& op = std::get<ops::PagedAttention>(attend->op);
    l.layer = op.layer;
    l.scale = op.scale;
    l.window = op.window;
    l.out = added(attend->outputs[0]);
    return l.out >= 0;
  }

  // The shapes and tables that all layers share.
  bool heads(const ProgramStep& append, const MatchedLayer& l) {
    const ProgramValue& pool = value(append.inputs[7]);
    MatchedDecoder now = m_;
    now.rope = append.inputs[3];
    now.positions = append.inputs[4];
    now.row_sequence = append.inputs[5];
    now.page_table = append.inputs[6];
    now.pool = append.inputs[7];
    now.kv_heads = pool.shape[3];
    now.head_dim = pool.shape[5];
    now.heads = value(append.inputs[0]).shape.cols() / now.head_dim;
    const bool same = m_.layers.empty() ||
                      (now.rope == m_.rope && now.positions == m_.positions &&
                       now.row_sequence == m_.row_sequence && now.page_table == m_.page_table &&
                       now.pool == m_.pool && now.heads == m_.heads);
    const int64_t rows = (now.heads + 2 * now.kv_heads) * now.head_dim;
    if (!same || value(l.qkv).shape[0] != rows) return false;
    m_ = now;
    return true;
  }

  bool mlp(MatchedLayer& l) {
    const ProgramStep* gate = normed<ops::GatedLinear>(l.mlp_norm, l.mlp_eps);
    if (gate == nullptr) return false;
    l.gate_up = gate->inputs[1];
    const int64_t inner = value(gate->outputs[0]).shape.cols();
    if (m_.inner != 0 && inner != m_.inner) return false;
    m_.inner = inner;
    l.down = added(gate->outputs[0]);
    return l.down >= 0;
  }

  const Program& p_;
  MatchedDecoder m_;
  size_t at_ = 0;
  std::optional<size_t> rope_step_;
  ValueId residual_ = -1;
};

}  // namespace

std::optional<MatchedDecoder> match_decoder(const Program& program) {
  return Matcher(program).run();
}

}  // namespace limpet
