#include "clients/cli/line_reader.h"

#include <algorithm>
#include <filesystem>
#include <string_view>

namespace limpet::client {

LineReader::LineReader(const std::string& path, size_t longest) : longest_(longest) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) return;
  in_.open(path, std::ios::binary);
  const auto size = std::filesystem::file_size(path, error);
  if (!error) size_ = size;
}

bool LineReader::next(std::string& line) {
  while (read_line(line)) {
    if (too_long_ || line.find_first_not_of(" \t\r") != std::string::npos) return true;
  }
  return false;
}

bool LineReader::read_line(std::string& line) {
  line.clear();
  if (line.capacity() > longest_ / 4) line.shrink_to_fit();
  too_long_ = whole_ = false;
  char part[4096];
  bool any = false;
  while (!whole_ && in_) {
    in_.getline(part, sizeof part);
    auto n = static_cast<size_t>(in_.gcount());
    if (n == 0 && in_.eof()) break;
    any = true;
    position_ += n;
    if (in_.eof()) {
      // The file ends without a line's end.
    } else if (in_.fail()) {  // the line goes on
      in_.clear(in_.rdstate() & ~std::ios::failbit);
    } else {
      whole_ = true;
      --n;
    }
    const size_t room = longest_ - std::min(longest_, line.size());
    if (n > room) too_long_ = true;
    line.append(part, std::min(n, room));
  }
  if (any) ++number_;
  return any;
}

}  // namespace limpet::client
