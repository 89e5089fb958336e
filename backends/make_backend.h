// Opens a device.
#pragma once
#include <memory>
#include <string>

#include "backends/backend.h"
#include "backends/device.h"

namespace limpet {

struct BackendOptions {
  int threads = 0;       // of the CPU backend; 0: as many as the machine has
  bool bf16_dot = true;  // use the processor's dot products, bf16 and int8, where it has them
  bool graphs = true;    // replay programs as captured graphs where the device can
  bool fused = true;     // let several ops run as one kernel where the device can
  bool timed = false;    // measure BackendCounters::busy_seconds where the device can
  // A GPU's kernels for products are chosen by timing, when a bucket of so many rows is first
  // prepared, else by fixed rules; once in a process, and, with a file, on a machine.
  bool timed_choices = true;
  std::string choices_file{};
};

// Throws std::runtime_error: a backend that this version lacks (the message names the option that
// is to build it), or a device that is not there.
std::unique_ptr<Backend> make_backend(const Device& device, const BackendOptions& options = {});

}  // namespace limpet
