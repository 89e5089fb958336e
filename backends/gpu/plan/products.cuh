// The products of a decoder's layers and its head: what each could be done by, and what is chosen.
#pragma once
#include <algorithm>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "backends/gpu/vendor_product.h"
#include "ops/linear/skinny.cuh"

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {
namespace {

using namespace ops;

constexpr int64_t kFewRows = 64;  // as many as the skinny product takes

// Who multiplies: it follows from the rows that the bucket allows. Few rows may go to the vendor's
// products, too.
enum class Way { one, few, many };
inline Way way_of(int64_t rows) {
  return rows == 1 ? Way::one : rows <= kFewRows ? Way::few : Way::many;
}

enum Product : size_t { kQkv, kOut, kGateUp, kDown, kHead, kProducts };

struct Candidate {
  enum class Kind { gemv, skinny, vendor } kind = Kind::skinny;
  GemvCut gemv{};
  SkinnyCut skinny{};
  int plan = -1;  // VendorProducts'
  std::string name{};
};

inline Candidate candidate_of(const GemvCut& cut) {
  std::ostringstream name;
  name << (cut.bulk ? "bulk " : "rows ") << cut.blocks_per_processor << " " << cut.next_after;
  return {Candidate::Kind::gemv, cut, {}, -1, name.str()};
}
inline Candidate candidate_of(const SkinnyCut& cut) {
  const StreamCut& s = cut.stream;
  std::ostringstream name;
  if (s.tile == 0) {
    name << "skinny " << cut.groups << " " << cut.split;
  } else {
    name << "streamed " << s.tile << " " << s.parts << " " << s.mates << " " << s.blocks;
  }
  return {Candidate::Kind::skinny, {}, cut, -1, name.str()};
}
inline Candidate candidate_of_vendor(int plan, size_t number) {
  std::ostringstream name;
  name << "vendor " << number;
  return {Candidate::Kind::vendor, {}, {}, plan, name.str()};
}

// Candidates of one product; the first is what the fixed rules choose.
struct ProductChoice {
  std::vector<Candidate> all{};
  size_t chosen = 0;

  const Candidate& now() const { return all[chosen]; }
  bool by_vendor() const {
    return !all.empty() && now().kind == Candidate::Kind::vendor;
  }
  std::optional<size_t> first_of_vendor() const {
    const auto at = std::ranges::find(all, Candidate::Kind::vendor, &Candidate::kind);
    return at == all.end() ? std::nullopt : std::optional(static_cast<size_t>(at - all.begin()));
  }
  void add(Candidate c) {
    if (std::ranges::find(all, c.name, &Candidate::name) == all.end()) all.push_back(std::move(c));
  }
  bool choose(const std::string& name) {
    const auto at = std::ranges::find(all, name, &Candidate::name);
    if (at == all.end()) return false;
    chosen = static_cast<size_t>(at - all.begin());
    return true;
  }
};

// By own kernels: n × k, of rows; head_dim: of the pairs that the product's end takes.
inline ProductChoice own_candidates(int rows, int n, int k, int head_dim, int processors) {
  ProductChoice c;
  if (rows == 1) {
    if (prefers_skinny(n, k, processors)) c.add(candidate_of(choose_skinny(1, n, k, processors)));
    c.add(candidate_of(choose_gemv(n, k, processors)));
    for (const GemvCut& cut : gemv_cuts(k)) c.add(candidate_of(cut));
  } else {
    c.add(candidate_of(choose_skinny(rows, n, k, processors)));
  }
  if (k % 64 == 0) {
    for (const SkinnyCut& cut : skinny_cuts(rows, k, head_dim)) c.add(candidate_of(cut));
  }
  return c;
}

// By an own kernel.
template <Tail T>
GpuError multiply(const Candidate& by, const Gemv& g, const ProductInput& in, const TailArgs& t,
                  int processors, GpuStream stream) {
  const Launch how{stream, Start::early};
  if (by.kind == Candidate::Kind::gemv) return launch_gemv<T>(g, in, t, by.gemv, processors, how);
  return launch_skinny<T>(g, in, t, by.skinny, how);
}

}  // namespace
}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
