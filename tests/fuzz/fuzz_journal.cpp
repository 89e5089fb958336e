// A row of the store's log. What is read of it must be writable, and read back the same.
#include "broker/journal_record.h"
#include "schema/wire.h"
#include "tests/fuzz/target.h"

namespace limpet::fuzz {
namespace {

using namespace broker;

// The one record of a row that `write` makes.
template <typename Write>
Record written(RecordWriter& writer, const Write& write) {
  writer.begin(JobNumber(0), SessionNumber(0));
  write();
  ByteReader in(writer.bytes());
  in.get<JobNumber>();
  in.get<SessionNumber>();
  const auto record = next_record(in);
  expect(record.has_value() && in.ok() && in.at_end());
  return *record;
}

bool check_session(ByteReader& in) {
  SessionHead head, again;
  if (!get_session(in, head)) return false;
  RecordWriter writer, rewriter;
  Record record = written(writer, [&] { writer.session(head); });
  expect(get_session(record.body, again) && record.body.at_end());
  written(rewriter, [&] { rewriter.session(again); });
  expect(rewriter.bytes() == writer.bytes());
  return true;
}

bool check_job(ByteReader& in) {
  JobHead head, again;
  if (!get_job(in, head)) return false;
  RecordWriter writer, rewriter;
  Record record = written(writer, [&] { writer.job(head); });
  expect(get_job(record.body, again) && record.body.at_end());
  written(rewriter, [&] { rewriter.job(again); });
  expect(rewriter.bytes() == writer.bytes());
  return true;
}

bool check_chunk(ByteReader& in, size_t size) {
  OutputChunk chunk, again;
  if (!get_chunk(in, chunk)) return false;
  expect(chunk.ids.size() <= size / sizeof(Token) && chunk.text.size() <= size);
  expect(chunk.first >= 0 && chunk.end() >= chunk.first);
  std::string bytes;
  put_chunk(bytes, chunk);
  ByteReader back(bytes);
  expect(get_chunk(back, again) && back.at_end());
  expect(again.ids == chunk.ids && again.text == chunk.text && again.first == chunk.first);
  const OutputRow whole = chunk.from(JobNumber(1), chunk.first);
  expect(whole.ids == chunk.ids && whole.text == chunk.text);
  if (!chunk.ids.empty()) expect(chunk.from(JobNumber(1), chunk.end() - 1).ids.size() == 1);
  return true;
}

bool run(std::string_view input) {
  ByteReader in(input);
  in.get<JobNumber>();
  in.get<SessionNumber>();
  bool taken = false;
  while (auto record = next_record(in)) {
    ByteReader& body = record->body;
    const RecordKind kind = record->kind;
    if (kind == RecordKind::session) taken = check_session(body) || taken;
    if (kind == RecordKind::job) taken = check_job(body) || taken;
    if (kind != RecordKind::spec && kind != RecordKind::prompt && kind != RecordKind::output) {
      continue;
    }
    body.get<JobNumber>();
    if (kind == RecordKind::spec) {
      const std::string_view bytes = body.counted();
      JobSpec spec;
      wire::decode_spec(std::as_bytes(std::span(bytes)), spec);
    } else if (kind == RecordKind::prompt) {
      std::vector<Token> ids;
      if (get_tokens(body, ids)) expect(ids.size() <= input.size() / sizeof(Token));
    } else {
      taken = check_chunk(body, input.size()) || taken;
    }
  }
  return taken;
}

std::vector<std::string> seeds() {
  SessionHead session;
  session.session = SessionNumber(3);
  session.name = "a session's name";
  session.tenant = "acme";
  session.keep_alive_ms = 60'000;
  session.max_tokens = 4096;
  session.used_at = 1'700'000'000'000;
  JobHead job;
  job.job = JobNumber(9);
  job.id = "a job's id";
  job.prompt = {1, 2, 3};
  auto spec = std::make_shared<JobSpec>();
  spec->text = "a prompt";
  job.spec = spec;
  job.tail.restart(40);
  job.tail.append({JobNumber(9), 40, {1, 2}, "ab", {}});
  job.tail.append({JobNumber(9), 42, {3}, "", {{{3, -1.f}, {4, -2.f}}}});
  job.tail.append({JobNumber(9), 43, {4, 5, 6}, "cde", {}});
  std::vector<std::string> out;
  RecordWriter all, one;
  all.begin(JobNumber(9), SessionNumber(3));
  all.session(session);
  all.job(job);
  all.spec(job);
  all.prompt(job);
  all.output(job);
  all.session_closed(SessionNumber(3));
  out.push_back(all.bytes());
  one.begin(JobNumber(9), SessionNumber(3));
  one.output(job);
  out.push_back(one.bytes());
  return out;
}

}  // namespace

const Target kJournal{run, seeds};

}  // namespace limpet::fuzz
