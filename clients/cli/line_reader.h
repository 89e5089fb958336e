// Lines of a file of any size, one at a time.
#pragma once
#include <cstdint>
#include <fstream>
#include <string>

namespace limpet::client {

class LineReader {
 public:
  // Longer lines are passed over, and only their beginning is kept.
  explicit LineReader(const std::string& path, size_t longest);

  bool is_open() const { return in_.is_open(); }
  // The next line that is not blank, without its end. False at the end of the file.
  bool next(std::string& line);

  // Of the line that next() gave:
  uint64_t number() const { return number_; }  // from 1
  bool too_long() const { return too_long_; }
  bool whole() const { return whole_; }        // it has its line's end

  uint64_t position() const { return position_; }  // bytes read
  uint64_t size() const { return size_; }          // of the file when it was opened; 0: unknown

 private:
  bool read_line(std::string& line);

  std::ifstream in_;
  const size_t longest_;
  uint64_t number_ = 0, position_ = 0, size_ = 0;
  bool too_long_ = false, whole_ = false;
};

}  // namespace limpet::client
