// Which kernels a decoder's products run on: found by timing, and remembered by name.
//
// Every kernel or cut of a kernel that could do a product is a candidate with a name of its own
// ("skinny 2 4", "vendor 3"). descend() looks for the fastest together; a ChoiceTable holds what
// was found, for each key: the device, its libraries and the shapes. A name that nobody knows any
// more means that it must be found anew.
//
// Pure but for ChoiceMemory, which has a lock and may have a file.
#pragma once
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace limpet {

// Numbers of candidates, one for each product: from `start` on, product by product, what makes the
// whole faster by more than `gain` (0.01: by 1 %) is kept. `counts`: candidates of each product, at
// least one. `seconds`: of the whole with these; infinity where one of them cannot be.
std::vector<size_t> descend(
    std::span<const size_t> counts, std::vector<size_t> start, double gain,
    const std::function<double(const std::vector<size_t>&)>& seconds);
// From each start, which may lie where no single change leads to: the best of what was found, an
// earlier start's unless the gain is larger.
std::vector<size_t> descend_from_each(
    std::span<const size_t> counts, const std::vector<std::vector<size_t>>& starts, double gain,
    const std::function<double(const std::vector<size_t>&)>& seconds);

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
  // Over what is there.
  void add(const ChoiceTable& other);
  size_t size() const { return of_.size(); }
  const std::map<std::string, Names>& all() const { return of_; }

 private:
  std::map<std::string, Names> of_;
};

// What all backends of the process know. Any thread.
class ChoiceMemory {
 public:
  static ChoiceMemory& of_process();

  std::optional<ChoiceTable::Names> find(const std::string& key);
  void put(const std::string& key, ChoiceTable::Names names);
  // Reads the file, which may be missing, writes there what it lacks, and from now on what is put.
  // What the process knows stays as it is: bits depend on it. Gives what is wrong with the file, or
  // nothing; one that cannot be read is written anew.
  std::string keep_in(const std::string& path);
  // Adds a line for whoever asks for news(). Of more than 256 the first are kept.
  void tell(std::string line);
  // The lines since the last time: what was told, and that the file could not be written.
  std::vector<std::string> news();
  ChoiceTable known();
  void forget();  // all, and the file

 private:
  void add_news(std::string line);
  void write();

  std::mutex lock_;
  ChoiceTable table_;
  std::string path_;
  std::vector<std::string> news_;
};

}  // namespace limpet
