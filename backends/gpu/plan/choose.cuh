// Which of its candidates each product of a plan goes to: what is remembered, or what is fastest,
// timed over as many layers' own weights as make each come from memory, in the order in which a
// step runs them, attention over one position.
#pragma once
#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <sstream>
#include <utility>

#include "backends/gpu/choice_memory.h"
#include "backends/gpu/plan/plan.cuh"

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {
namespace {

constexpr double kWorthIt = 0.005;  // gain of another choice over the one that there is
constexpr double kMostSeconds = 1.5;  // of timing one key; then what is best so far stays
constexpr int kPasses = 4;            // the first of which is not counted
constexpr int64_t kColdBytes = int64_t{400} << 20;  // of weights in a pass: many times the L2's
// Of the candidates' kernels: what was found with another is found anew.
constexpr int kKernels = 2;

class Event {
 public:
  Event() { gpu_check(LIMPET_GPU(EventCreate)(&event_), "creating an event"); }
  ~Event() { (void)LIMPET_GPU(EventDestroy)(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  GpuEvent get() const { return event_; }

 private:
  GpuEvent event_{};
};

// A pass as a graph, as a step runs it: launched one by one, the kernels of small models would take
// as long as the host needs to launch them.
class CapturedPass {
 public:
  CapturedPass(const std::function<GpuError()>& pass, GpuStream stream) {
    const auto mode = LIMPET_GPU(StreamCaptureModeThreadLocal);
    gpu_check(LIMPET_GPU(StreamBeginCapture)(stream, mode), "timing kernels");
    GpuGraph graph{};
    error_ = pass();
    const GpuError ended = LIMPET_GPU(StreamEndCapture)(stream, &graph);
    if (error_ == GpuError{}) error_ = ended;
    if (error_ == GpuError{}) error_ = gpu_instantiate(&exec_, graph);
    if (graph != nullptr) (void)LIMPET_GPU(GraphDestroy)(graph);
    if (error_ != GpuError{}) (void)LIMPET_GPU(GetLastError)();
  }
  ~CapturedPass() {
    if (exec_ != nullptr) (void)LIMPET_GPU(GraphExecDestroy)(exec_);
  }
  CapturedPass(const CapturedPass&) = delete;
  CapturedPass& operator=(const CapturedPass&) = delete;
  bool there() const { return error_ == GpuError{}; }
  void launch(GpuStream stream) const {
    gpu_check(LIMPET_GPU(GraphLaunch)(exec_, stream), "timing kernels");
  }

 private:
  GpuGraphExec exec_{};
  GpuError error_{};
};

// The fastest of some passes; infinity when a kernel refuses.
double Plan::seconds_of(const std::function<GpuError()>& pass) {
  const CapturedPass captured(pass, stream_);
  if (!captured.there()) return std::numeric_limits<double>::infinity();
  const Event begin, end;
  float least = std::numeric_limits<float>::infinity();
  for (int i = 0; i < kPasses; ++i) {
    gpu_check(LIMPET_GPU(EventRecord)(begin.get(), stream_), "timing kernels");
    captured.launch(stream_);
    gpu_check(LIMPET_GPU(EventRecord)(end.get(), stream_), "timing kernels");
    gpu_check(LIMPET_GPU(EventSynchronize)(end.get()), "timing kernels");
    float ms = 0;
    gpu_check(LIMPET_GPU(EventElapsedTime)(&ms, begin.get(), end.get()), "timing kernels");
    if (i > 0) least = std::min(least, ms);
  }
  return least * 1e-3;
}

int64_t Plan::layers_to_time() const {
  const int64_t outputs = qkv_width() + m_.heads * m_.head_dim + 3 * m_.inner;
  const int64_t cold = kColdBytes / (2 * m_.hidden * outputs) + 1;
  return std::min(std::ssize(m_.layers), std::max<int64_t>(cold, 4));
}

std::string Plan::key_of(std::span<const Product> of) const {
  std::ostringstream key;
  key << options_.device << ", kernels " << kKernels;
  if (vendor_ != nullptr) key << ", " << vendor_->version();
  const bool head = of.front() == kHead;
  key << (head ? ": head" : m_.layers[0].q_norm < 0 ? ": layers" : ": normed layers");
  if (head && head_->draw) key << " and best";
  key << " of " << shape_of(of.front()).rows;
  for (const Product p : of) key << " " << shape_of(p).n << "x" << shape_of(p).k;
  if (!head) key << ", heads of " << m_.head_dim;
  return key.str();
}

// What is remembered for the key, if there is such.
bool Plan::take_known(const std::string& key, std::span<const Product> of) {
  const auto names = ChoiceMemory::of_process().find(key);
  bool known = names && names->size() == of.size();
  for (size_t i = 0; known && i < of.size(); ++i) known = products_[of[i]].choose((*names)[i]);
  return known;
}

// Whether an earlier plan has settled the same, so that nothing is to be run: a bucket of as many
// rows and another past.
bool Plan::recall(std::span<const Product> of) {
  const std::string key = key_of(of);
  if (options_.settled == nullptr || !options_.settled->contains(key)) return false;
  const bool one =
      std::ranges::all_of(of, [&](Product p) { return products_[p].all.size() == 1; });
  return one || take_known(key, of);
}

// What is remembered, else what is fastest now. The last pass is with what is chosen: no kernel is
// loaded later.
void Plan::settle(std::span<const Product> of, const std::function<GpuError()>& pass,
                  Timed& timed) {
  const std::string key = key_of(of);
  std::vector<size_t> counts, vendors;
  for (const Product p : of) {
    counts.push_back(products_[p].all.size());
    if (const auto first = products_[p].first_of_vendor()) vendors.push_back(*first);
  }
  // All by own kernels, and all by the vendor's: one of its products alone pays for its norms.
  std::vector<std::vector<size_t>> starts{std::vector<size_t>(of.size())};
  if (of.size() > 1 && vendors.size() == of.size() && vendors != starts[0]) {
    starts.push_back(vendors);
  }
  const auto take = [&](const std::vector<size_t>& numbers) {
    for (size_t i = 0; i < of.size(); ++i) products_[of[i]].chosen = numbers[i];
  };
  const auto settled = [&] {
    if (options_.settled != nullptr) options_.settled->insert(key);
  };
  if (take_known(key, of)) {
    if (pass() == GpuError{}) return settled();
    (void)LIMPET_GPU(GetLastError)();  // it refuses what it once took: timed anew
  }
  take(starts[0]);
  if (std::ranges::any_of(counts, [](size_t n) { return n > 1; })) {
    const auto now = [] { return std::chrono::steady_clock::now(); };
    const auto begun = now();
    const Descent best = descend_from_each(counts, starts, kWorthIt, [&](const auto& numbers) {
      if (std::chrono::duration<double>(now() - begun).count() > kMostSeconds) {
        return std::numeric_limits<double>::infinity();
      }
      take(numbers);
      return seconds_of(pass);
    });
    if (!std::isfinite(best.seconds)) {  // nothing ran: nothing to remember
      take(starts[0]);
      gpu_check(pass(), "a decoder's products");
      return;
    }
    take(best.numbers);
    ChoiceTable::Names found;
    std::ostringstream told;
    told << key << ":";
    for (const Product p : of) {
      found.push_back(products_[p].now().name);
      told << (found.size() > 1 ? ", " : " ") << found.back();
    }
    told << "; a pass in " << best.seconds * 1e6 << " us, by the fixed rules in "
         << best.at_start * 1e6;
    ChoiceMemory::of_process().put(key, std::move(found));
    ChoiceMemory::of_process().tell(told.str());
    ++timed.keys;
  }
  gpu_check(pass(), "the kernels that were chosen");
  settled();
}

void Plan::choose(const std::vector<std::byte*>& data, GpuStream stream, Timed& timed) {
  if (chosen_ || !options_.timed) return;
  const auto begun = std::chrono::steady_clock::now();
  data_ = &data;
  stream_ = stream;
  constexpr std::array all{kQkv, kOut, kGateUp, kDown};
  constexpr std::array last{kHead};
  const bool layers = !as_one_ && !recall(all), head = head_ && !recall(last);
  if (layers || head) time_products(layers, head, timed);
  chosen_ = true;
  timed.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
}

// In practice (plan.cuh).
void Plan::time_products(bool layers, bool head, Timed& timed) {
  const int64_t rows = std::max(m_.rows, head_ ? head_->rows : 0);
  const int64_t zeros = std::max(rows, value(m_.page_table).shape[1]);
  Parts parts;
  const int64_t page = parts.take(2 * m_.kv_heads * kPageTokens * m_.head_dim * 2);
  const int64_t none = parts.take(4 * zeros);
  const int64_t draws = parts.take(rows * static_cast<int64_t>(sizeof(DrawSpec)));
  const int64_t drawn = parts.take(rows * static_cast<int64_t>(sizeof(DrawnToken)));
  const DeviceMemory memory(parts.bytes());
  gpu_check(LIMPET_GPU(MemsetAsync)(memory.data(), 0, static_cast<size_t>(parts.bytes()), stream_),
            "timing kernels");
  std::vector<DrawSpec> greedy(static_cast<size_t>(rows));
  for (DrawSpec& d : greedy) d.draws = 1;
  gpu_check(LIMPET_GPU(MemcpyAsync)(memory.data() + draws, greedy.data(),
                                    greedy.size() * sizeof(DrawSpec),
                                    LIMPET_GPU(MemcpyHostToDevice), stream_),
            "timing kernels");
  // Anything but zeros, which would be multiplied with less power.
  gpu_check(LIMPET_GPU(MemsetAsync)(scratch_, 0x3c, static_cast<size_t>(parts_.bytes()), stream_),
            "timing kernels");
  practice_ = Practice{reinterpret_cast<uint16_t*>(memory.data() + page),
                       reinterpret_cast<const int32_t*>(memory.data() + none),
                       reinterpret_cast<const DrawSpec*>(memory.data() + draws),
                       reinterpret_cast<DrawnToken*>(memory.data() + drawn)};
  try {
    if (layers) {
      settle(std::array{kQkv, kOut, kGateUp, kDown}, [&] {
        // In the place of what a step begins with: a first launch that is no early one.
        GpuError error = norm(m_.layers[0].norm, m_.layers[0].eps, Start::plain);
        const auto count = static_cast<size_t>(layers_to_time());
        for (size_t i = 0; i < count && error == GpuError{}; ++i) error = layer(i);
        return error;
      }, timed);
    }
    if (head) {
      settle(std::array{kHead}, [&] {
        const GpuError error = this->head();
        return error == GpuError{} && head_->draw ? draw() : error;
      }, timed);
    }
  } catch (...) {
    practice_.reset();
    for (ProductChoice& p : products_) p.chosen = 0;
    throw;
  }
  practice_.reset();
  gpu_check(LIMPET_GPU(StreamSynchronize)(stream_), "timing kernels");  // before the memory goes
}

}  // namespace
}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
