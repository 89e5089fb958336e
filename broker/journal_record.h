// Bytes of the log's records and of the chunk table: little-endian, lengths before contents. The
// store's own files are bounded and checked like anything else that is read. journal_format.md
// describes them. Pure; any thread.
#pragma once
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "broker/journal_state.h"

namespace limpet::broker {

enum class RecordKind : uint8_t {
  session = 1,
  session_closed = 2,
  job = 3,     // its state, without its tokens
  spec = 4,
  prompt = 5,
  output = 6,
};

// Reads fixed-size fields and counted bytes; once something does not fit, ok() stays false and
// everything read is zero or empty.
class ByteReader {
 public:
  explicit ByteReader(std::string_view bytes) : bytes_(bytes) {}
  bool ok() const { return ok_; }
  bool at_end() const { return bytes_.empty(); }

  template <typename T>
  T get() {
    static_assert(std::is_trivially_copyable_v<T>);
    T value{};
    const std::string_view from = take(sizeof(T));
    if (!from.empty()) std::memcpy(&value, from.data(), sizeof(T));
    return value;
  }
  std::string_view take(size_t n);
  std::string_view counted() { return take(get<uint32_t>()); }

 private:
  std::string_view bytes_;
  bool ok_ = true;
};

template <typename T>
void put(std::string& out, T value) {
  static_assert(std::is_trivially_copyable_v<T>);
  out.append(reinterpret_cast<const char*>(&value), sizeof(T));
}
void put_counted(std::string& out, std::string_view bytes);

void put_tokens(std::string& out, const std::vector<Token>& ids);
bool get_tokens(ByteReader& in, std::vector<Token>& out);

// The chunk from the given piece, token and text byte on (all of it: zeros).
void put_chunk(std::string& out, const OutputChunk& chunk, size_t piece = 0, size_t token = 0,
               size_t text = 0);
bool get_chunk(ByteReader& in, OutputChunk& out);

// A log row: the highest numbers drawn, then records, each with its kind and length.
class RecordWriter {
 public:
  void begin(JobNumber highest_job, SessionNumber highest_session);
  void session(const SessionHead& s);
  void session_closed(SessionNumber s);
  void job(const JobHead& j);
  void spec(const JobHead& j);
  void prompt(const JobHead& j);
  void output(const JobHead& j);  // what the tail holds beyond what is logged
  const std::string& bytes() const { return bytes_; }

 private:
  size_t open(RecordKind kind);
  void close(size_t at);
  std::string bytes_;
};

struct Record {
  RecordKind kind{};
  ByteReader body{{}};
};
// The next record of a log row (after its two numbers); none at the end or when in.ok() is false.
std::optional<Record> next_record(ByteReader& in);

bool get_session(ByteReader& in, SessionHead& out);
bool get_job(ByteReader& in, JobHead& out);

}  // namespace limpet::broker
