// A file of kernel choices. What is accepted is what would be written; what is not adds nothing.
#include "backends/gpu/kernel_choice.h"
#include "tests/fuzz/target.h"

namespace limpet::fuzz {
namespace {

bool run(std::string_view input) {
  ChoiceTable table, again;
  if (!table.read(input).empty()) {
    expect(table.size() == 0);
    return false;
  }
  const std::string text = table.text();
  // A last line without its end, or a line twice, is written otherwise than it was read.
  expect(text.size() <= input.size() + 1);
  if (text.size() <= 1 << 20) {
    expect(again.read(text).empty());
    expect(again.text() == text && again.size() == table.size());
  }
  return true;
}

std::vector<std::string> seeds() {
  ChoiceTable few, one;
  one.put("card", {"name"});
  const std::string card = "cuda, NVIDIA H200, 132 processors, driver 13000, kernels 1";
  few.put(card + ": head of 1 128256x4096", {"bulk 1 100"});
  few.put(card + ", cublaslt 130000: layers of 64 6144x4096 4096x4096 28672x4096 4096x14336",
          {"skinny 2 4", "streamed 128 2 1 2", "vendor 3", "vendor 0"});
  const std::string text = few.text();
  return {ChoiceTable().text(), one.text(), text, text.substr(0, text.size() - 1),
          one.text() + "card\tother\n", "limpet kernel choices 0\n"};
}

}  // namespace

const Target kKernelChoices{run, seeds};

}  // namespace limpet::fuzz
