// Named device memory that outlives runs, and the outputs that feed it.
//
// A program's value of kind `handle` is bound by its name. An output may feed a handle: after a
// run, what it wrote is the handle's content, by exchanging two buffers: nothing crosses to the
// host, and nothing is copied but what a handle holds beyond the end of a shorter output.
// E.g. feed("output_1", "past_k_0").
//
// Owned and driven by the thread that drives the backend. An unknown name is a bug:
// std::logic_error.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backends/backend.h"

namespace limpet::engine {

class Handles {
 public:
  explicit Handles(Backend& backend) : backend_(backend) {}

  // Binds a handle to memory, zero-filled or given; replaces what it was bound to.
  void bind(const std::string& name, int64_t bytes);
  void bind(const std::string& name, std::unique_ptr<Buffer> memory);
  // The handle becomes [upper, dim] float32: `rows` (a multiple of dim) and zeros after them.
  void install(const std::string& name, std::span<const float> rows, int64_t dim, int64_t upper);
  bool has(std::string_view name) const { return entries_.find(name) != entries_.end(); }
  Buffer& at(std::string_view name) const;
  // The first `elements` float32 elements.
  std::vector<float> read(std::string_view name, int64_t elements) const;

  // After each run the program's output `output` is the content of `handle`; what the handle holds
  // beyond the output's bytes stays.
  void feed(const std::string& output, const std::string& handle);
  // The outputs of a decoder's step, by convention: output_0 is for the caller; output_<1 + 2i>
  // feeds past_k_<i> and output_<2 + 2i> feeds past_v_<i> of each of its layers.
  void feed_layers(int64_t layers);
  // Binds the program's handles, and the outputs that feed some.
  void attach(const Program& program, Executable& executable);
  // One run, and its feeds. attach() has been called, here or since the last bind() or run of
  // another executable with feeds; run() does it itself when anything is fed.
  void run(const Program& program, Executable& executable);

 private:
  struct Entry {
    std::unique_ptr<Buffer> memory;
    std::unique_ptr<Buffer> spare;  // what the feeding output writes
  };
  Entry& entry(std::string_view name);

  Backend& backend_;
  std::map<std::string, Entry, std::less<>> entries_;
  std::map<std::string, std::string, std::less<>> feeds_;  // output -> handle
};

}  // namespace limpet::engine
