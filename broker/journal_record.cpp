#include "broker/journal_record.h"

#include "schema/wire.h"

namespace limpet::broker {

std::string_view ByteReader::take(size_t n) {
  if (!ok_ || n > bytes_.size()) {
    ok_ = false;
    return {};
  }
  const std::string_view taken = bytes_.substr(0, n);
  bytes_.remove_prefix(n);
  return taken;
}

void put_counted(std::string& out, std::string_view bytes) {
  put(out, static_cast<uint32_t>(bytes.size()));
  out.append(bytes);
}

void put_tokens(std::string& out, const std::vector<Token>& ids) {
  put_counted(out, {reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(Token)});
}

bool get_tokens(ByteReader& in, std::vector<Token>& out) {
  const std::string_view bytes = in.counted();
  if (!in.ok() || bytes.size() % sizeof(Token) != 0) return false;
  out.resize(bytes.size() / sizeof(Token));
  if (!bytes.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
  return true;
}

void put_chunk(std::string& out, const OutputChunk& chunk, size_t piece, size_t token,
               size_t text) {
  using Piece = OutputChunk::Piece;
  const size_t pieces = chunk.pieces.size() - piece, tokens = chunk.ids.size() - token;
  put(out, chunk.first + static_cast<int64_t>(token));
  put_counted(out, {reinterpret_cast<const char*>(chunk.pieces.data() + piece),
                    pieces * sizeof(Piece)});
  put_counted(out, {reinterpret_cast<const char*>(chunk.ids.data() + token),
                    tokens * sizeof(Token)});
  put_counted(out, std::string_view(chunk.text).substr(text));
  if (chunk.logprobs.empty()) {
    put_counted(out, {});
  } else {
    const auto from = chunk.logprobs.begin() + static_cast<ptrdiff_t>(token);
    put_counted(out, wire::encode_logprobs({from, chunk.logprobs.end()}));
  }
}

bool get_chunk(ByteReader& in, OutputChunk& out) {
  using Piece = OutputChunk::Piece;
  out.restart(in.get<int64_t>());
  const std::string_view pieces = in.counted();
  if (!in.ok() || pieces.size() % sizeof(Piece) != 0 || out.first < 0) return false;
  out.pieces.resize(pieces.size() / sizeof(Piece));
  if (!pieces.empty()) std::memcpy(out.pieces.data(), pieces.data(), pieces.size());
  if (!get_tokens(in, out.ids)) return false;
  out.text = in.counted();
  const std::string_view logprobs = in.counted();
  if (!in.ok()) return false;
  size_t tokens = 0, text = 0;
  for (const Piece& piece : out.pieces) {
    tokens += piece.tokens;
    text += piece.text_bytes;
  }
  if (tokens != out.ids.size() || text != out.text.size()) return false;
  if (logprobs.empty()) return true;
  const auto error = wire::decode_logprobs(std::as_bytes(std::span(logprobs)), out.logprobs);
  return error.code == ErrorCode::none && out.logprobs.size() == out.ids.size();
}

void RecordWriter::begin(JobNumber highest_job, SessionNumber highest_session) {
  bytes_.clear();
  put(bytes_, raw(highest_job));
  put(bytes_, raw(highest_session));
}

size_t RecordWriter::open(RecordKind kind) {
  put(bytes_, raw(kind));
  put(bytes_, uint32_t{0});
  return bytes_.size();
}

void RecordWriter::close(size_t at) {
  const auto length = static_cast<uint32_t>(bytes_.size() - at);
  std::memcpy(bytes_.data() + at - sizeof(length), &length, sizeof(length));
}

void RecordWriter::session(const SessionHead& s) {
  const size_t at = open(RecordKind::session);
  put(bytes_, raw(s.session));
  put(bytes_, raw(s.epoch));
  put(bytes_, s.incarnation);
  put(bytes_, raw(s.reason));
  put(bytes_, s.tokens);
  put(bytes_, raw(s.last_job));
  put_counted(bytes_, s.name);
  put_counted(bytes_, s.home);
  put(bytes_, s.model);
  put_counted(bytes_, s.tenant);
  put(bytes_, s.keep_alive_ms);
  put(bytes_, s.max_tokens);
  put(bytes_, s.used_at);
  close(at);
}

void RecordWriter::session_closed(SessionNumber s) {
  const size_t at = open(RecordKind::session_closed);
  put(bytes_, raw(s));
  close(at);
}

void RecordWriter::job(const JobHead& j) {
  const size_t at = open(RecordKind::job);
  put(bytes_, raw(j.job));
  put(bytes_, raw(j.session));
  put(bytes_, j.body_hash);
  put(bytes_, j.seed);
  put(bytes_, j.accepted_at);
  put(bytes_, j.deadline_at);
  put(bytes_, raw(j.state));
  put(bytes_, raw(j.attempt));
  put(bytes_, raw(j.span.previous));
  put(bytes_, j.span.base);
  put(bytes_, j.span.prompt);
  put(bytes_, static_cast<uint8_t>(j.has_started));
  put(bytes_, raw(j.started.attempt));
  put(bytes_, raw(j.started.residency));
  put(bytes_, raw(j.started.reason));
  put(bytes_, j.started.cached_tokens);
  put(bytes_, j.started.prefilled_tokens);
  put_counted(bytes_, j.started.worker);
  put_counted(bytes_, j.id);
  put_counted(bytes_, j.why);
  put(bytes_, j.failures);
  put_counted(bytes_, j.tenant);
  close(at);
}

void RecordWriter::spec(const JobHead& j) {
  const size_t at = open(RecordKind::spec);
  put(bytes_, raw(j.job));
  put_counted(bytes_, wire::encode_spec(*j.spec));
  close(at);
}

void RecordWriter::prompt(const JobHead& j) {
  const size_t at = open(RecordKind::prompt);
  put(bytes_, raw(j.job));
  put_tokens(bytes_, j.prompt);
  close(at);
}

void RecordWriter::output(const JobHead& j) {
  const size_t at = open(RecordKind::output);
  put(bytes_, raw(j.job));
  put_chunk(bytes_, j.tail, j.logged_pieces, j.logged_tokens, j.logged_text);
  close(at);
}

std::optional<Record> next_record(ByteReader& in) {
  if (!in.ok() || in.at_end()) return std::nullopt;
  const auto kind = in.get<RecordKind>();
  const std::string_view body = in.counted();
  if (!in.ok()) return std::nullopt;
  return Record{kind, ByteReader(body)};
}

bool get_session(ByteReader& in, SessionHead& out) {
  out.session = in.get<SessionNumber>();
  out.epoch = in.get<Epoch>();
  out.incarnation = in.get<uint64_t>();
  out.reason = in.get<Reason>();
  out.tokens = in.get<int64_t>();
  out.last_job = in.get<JobNumber>();
  out.name = in.counted();
  out.home = in.counted();
  out.model = in.at_end() ? 0 : in.get<uint64_t>();  // version 1 had none
  if (!in.at_end()) out.tenant = in.counted();  // versions 1 and 2 had none
  if (!in.at_end()) {                           // nor had those before 5 these
    out.keep_alive_ms = in.get<int64_t>();
    out.max_tokens = in.get<int64_t>();
    out.used_at = in.get<WallMs>();
  }
  return in.ok() && out.reason <= Reason::model_changed && out.tokens >= 0;
}

bool get_job(ByteReader& in, JobHead& out) {
  out.job = in.get<JobNumber>();
  out.session = in.get<SessionNumber>();
  out.body_hash = in.get<uint64_t>();
  out.seed = in.get<uint64_t>();
  out.accepted_at = in.get<WallMs>();
  out.deadline_at = in.get<WallMs>();
  out.state = in.get<JobState>();
  out.attempt = in.get<Attempt>();
  out.span.previous = in.get<JobNumber>();
  out.span.base = in.get<int64_t>();
  out.span.prompt = in.get<int64_t>();
  out.has_started = in.get<uint8_t>() != 0;
  out.started.job = out.job;
  out.started.attempt = in.get<Attempt>();
  out.started.residency = in.get<Residency>();
  out.started.reason = in.get<Reason>();
  out.started.cached_tokens = in.get<int64_t>();
  out.started.prefilled_tokens = in.get<int64_t>();
  out.started.base_tokens = out.span.base;
  out.started.worker = in.counted();
  out.id = in.counted();
  out.why = in.counted();
  out.failures = in.at_end() ? 0 : in.get<int32_t>();  // version 1 had none
  if (!in.at_end()) out.tenant = in.counted();  // versions 1 and 2 had none
  return in.ok() && out.failures >= 0 && out.state < JobState::finished && out.span.base >= 0 &&
         out.started.residency <= Residency::reprefilled &&
         out.started.reason <= Reason::model_changed;
}

}  // namespace limpet::broker
