// Which kernels a decoder's products run on: found by timing, and remembered by name.
//
// Every kernel or cut of a kernel that could do a product is a candidate with a name of its own
// ("skinny 2 4", "vendor 3"). descend() looks for the fastest together; a ChoiceTable holds what
// was found, for each key: the device, its libraries and the shapes. A name that nobody knows any
// more means that it must be found anew. Where it is kept: choice_memory.h.
//
// Pure: plain data in and out, the clock is the caller's.
#pragma once
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace limpet {

struct Descent {
  std::vector<size_t> numbers{};  // of candidates, one for each product
  double seconds = 0;             // of the whole with them; infinity: nothing could be
  double at_start = 0;            // with what it began with, the first start
};
// From `start` on, product by product, what makes the whole faster by more than `gain` (0.01: by
// 1 %) is kept. `counts`: candidates of each product, at least one. `seconds`: of the whole with
// these numbers; infinity where one of them cannot be, or time has run out.
using SecondsOf = std::function<double(const std::vector<size_t>& numbers)>;
Descent descend(std::span<const size_t> counts, std::vector<size_t> start, double gain,
                const SecondsOf& seconds);
// From each start, which may lie where no single change leads to: the best of what was found, an
// earlier start's unless the gain is larger.
Descent descend_from_each(std::span<const size_t> counts,
                          const std::vector<std::vector<size_t>>& starts, double gain,
                          const SecondsOf& seconds);

class ChoiceTable {
 public:
  using Names = std::vector<std::string>;

  const Names* find(const std::string& key) const;
  // Keys and names: 1 to 512 printable ASCII characters each, at most 16 names. Else
  // std::logic_error.
  void put(const std::string& key, Names names);
  // One line for each key, tabs between; the first line tells the format.
  std::string text() const;
  // Adds what text() wrote, over what is there; or tells what is wrong, and adds nothing.
  std::string read(std::string_view text);
  static constexpr size_t kMostText = 1 << 20;  // that it takes
  // Over what is there.
  void add(const ChoiceTable& other);
  size_t size() const { return of_.size(); }
  const std::map<std::string, Names>& all() const { return of_; }

 private:
  std::map<std::string, Names> of_;
};

}  // namespace limpet
