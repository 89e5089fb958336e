#include "engine/completed_options.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace limpet::engine {
namespace {

int64_t pool_pages(const EngineOptions& o, const ModelConfig& c) {
  const int64_t page = layout_of(c, o.precision).page_bytes();
  int64_t pages = o.kv_pages;
  if (pages == 0 && o.kv_bytes != 0) pages = o.kv_bytes / page;
  if (pages == 0 && o.kv_bytes == 0) {
    const int64_t room = 4 * ((c.max_context + kPageTokens - 1) / kPageTokens);
    pages = std::min(room, std::max<int64_t>((int64_t{1} << 30) / page, 1));
  }
  if (pages < 1 || pages > (1 << 30)) {
    throw std::runtime_error("the KV pool holds no page (one takes " + std::to_string(page) +
                             " bytes) or too many; set its size in pages or bytes");
  }
  return pages;
}

}  // namespace

KvLayout layout_of(const ModelConfig& c, Precision precision) {
  return {c.layers, c.kv_heads, c.head_dim, kPageTokens, precision};
}

EngineOptions completed(EngineOptions o, const ModelConfig& c) {
  o.kv_pages = pool_pages(o, c);
  const int64_t most = 1 << 20;
  if (o.max_rows < 1 || o.max_sequences < 1 || o.max_rows > most || o.max_sequences > most) {
    throw std::runtime_error("max_rows and max_sequences must be from 1 to 1048576");
  }
  o.max_sequences = std::min(o.max_sequences, o.max_rows);
  if (o.max_wanted <= 0) {
    const int64_t fitting = (int64_t{64} << 20) / (4 * c.vocab);
    o.max_wanted = std::max(o.max_sequences, fitting);
  }
  o.max_wanted = std::min(o.max_wanted, o.max_rows);
  return o;
}

}  // namespace limpet::engine
