// What a kernel is given besides its operands.
//
// For each op X of op.h and each backend there is a `run(const X&, <Context>&, const Args&)`;
// a backend that lacks one does not link. Arguments were checked when the program was compiled.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>

#include "ops/tensor.h"

namespace limpet {

// The CPU's threads and scratch memory. One op runs at a time; kernels keep nothing between ops.
class CpuContext {
 public:
  virtual ~CpuContext() = default;

  // Calls task(item, thread) once for each item in [0, count), on the pool's threads, and returns
  // when all are done. 0 <= thread < threads(). Which thread gets which item is not determined,
  // so no result may depend on it. A task must not throw.
  template <class Task>
  void parallel_for(int64_t count, Task&& task) {
    using T = std::remove_reference_t<Task>;
    run_items(
        count, [](void* t, int64_t item, int thread) { (*static_cast<T*>(t))(item, thread); },
        const_cast<void*>(static_cast<const void*>(std::addressof(task))));
  }

  virtual int threads() const = 0;
  // 64-byte aligned memory of at least this size, one for the op and one for each thread. Asking
  // again may move it.
  virtual std::byte* shared_scratch(size_t bytes) = 0;
  virtual std::byte* thread_scratch(int thread, size_t bytes) = 0;
  // Whether the processor's dot-product instructions (bf16, int8) may be used.
  virtual bool bf16_dot() const = 0;

 protected:
  using Item = void (*)(void* task, int64_t item, int thread);
  virtual void run_items(int64_t count, Item item, void* task) = 0;
};

// The rows that count, of `rows` that the shapes allow (CPU: device memory is readable here).
inline int64_t true_rows(const Args& args, int64_t rows) {
  if (args.count == nullptr) return rows;
  const int64_t n = *args.count;
  return n < 0 ? 0 : n < rows ? n : rows;
}

// For the checks of operands: throws std::logic_error "<op>: <what>" unless ok.
void require(bool ok, const char* op, const char* what);

}  // namespace limpet
