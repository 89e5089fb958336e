#include "broker/journal_record.h"

#include <gtest/gtest.h>

#include <random>

namespace limpet::broker {
namespace {

OutputChunk a_chunk() {
  OutputChunk chunk;
  chunk.restart(40);
  chunk.append({JobNumber(1), 40, {1, 2}, "ab", {}});
  chunk.append({JobNumber(1), 42, {3}, "", {{{3, -1.f}, {4, -2.f}}}});
  chunk.append({JobNumber(1), 43, {4, 5, 6}, "cde", {}});
  return chunk;
}

TEST(JournalRecord, AChunkComesBack) {
  const OutputChunk chunk = a_chunk();
  std::string bytes;
  put_chunk(bytes, chunk);
  ByteReader in(bytes);
  OutputChunk back;
  ASSERT_TRUE(get_chunk(in, back));
  EXPECT_EQ(back.first, 40);
  EXPECT_EQ(back.ids, chunk.ids);
  EXPECT_EQ(back.text, chunk.text);
  EXPECT_EQ(back.logprobs, chunk.logprobs);
}

TEST(JournalRecord, TextBelongsToItsRow) {
  const OutputChunk chunk = a_chunk();
  EXPECT_EQ(chunk.from(JobNumber(1), 0).text, "abcde");
  EXPECT_EQ(chunk.from(JobNumber(1), 41).text, "abcde");  // within the first row
  EXPECT_EQ(chunk.from(JobNumber(1), 41).ids, (std::vector<Token>{2, 3, 4, 5, 6}));
  EXPECT_EQ(chunk.from(JobNumber(1), 42).text, "cde");
  EXPECT_EQ(chunk.from(JobNumber(1), 43).logprobs.size(), 3u);
}

TEST(JournalRecord, DamagedBytesAreRefusedAndNeverRunAway) {
  SessionHead session;
  session.session = SessionNumber(3);
  session.name = "a session's name";
  JobHead job;
  job.job = JobNumber(9);
  job.id = "a job's id";
  job.prompt = {1, 2, 3};
  job.tail = a_chunk();
  RecordWriter writer;
  writer.begin(JobNumber(9), SessionNumber(3));
  writer.session(session);
  writer.job(job);
  writer.prompt(job);
  writer.output(job);
  writer.session_closed(SessionNumber(3));
  std::mt19937 rng(1);
  int whole = 0, refused = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string row = writer.bytes();
    if (i > 0) {
      for (size_t n = rng() % 4; n > 0; --n) row[rng() % row.size()] = static_cast<char>(rng());
      if (rng() % 3 == 0) row.resize(rng() % row.size());
    }
    ByteReader in(row);
    in.get<JobNumber>();
    in.get<SessionNumber>();
    bool fine = true;
    while (auto record = next_record(in)) {
      SessionHead s;
      JobHead j;
      OutputChunk chunk;
      if (record->kind == RecordKind::session) fine = get_session(record->body, s) && fine;
      if (record->kind == RecordKind::job) fine = get_job(record->body, j) && fine;
      if (record->kind == RecordKind::prompt || record->kind == RecordKind::output) {
        record->body.get<JobNumber>();
        fine = (record->kind == RecordKind::prompt ? get_tokens(record->body, j.prompt)
                                                   : get_chunk(record->body, chunk)) && fine;
        EXPECT_LE(chunk.ids.size() + j.prompt.size(), row.size() / sizeof(Token));
      }
    }
    fine = fine && in.ok();
    (fine ? whole : refused)++;
    if (i == 0) {
      EXPECT_TRUE(fine);
    }
  }
  EXPECT_GT(whole, 0);
  EXPECT_GT(refused, 1000);
}

std::string all_of(ByteReader bytes) {
  std::string all;
  while (!bytes.at_end()) all += bytes.take(1);
  return all;
}

// Records of an older version end before the fields that later ones have added.
TEST(JournalRecord, RecordsOfOlderVersionsAreRead) {
  SessionHead session;
  session.session = SessionNumber{3};
  session.home = "w";
  session.model = 77;
  session.tenant = "acme";
  session.keep_alive_ms = 5;
  session.max_tokens = 6;
  session.used_at = 7;
  constexpr size_t kTenant = sizeof(uint32_t) + 4;  // what version 3 has added
  JobHead job;
  job.id = "j";
  job.why = "lost";
  job.failures = 2;
  job.tenant = "acme";
  RecordWriter writer;
  writer.begin(JobNumber{1}, SessionNumber{1});
  writer.session(session);
  writer.job(job);
  ByteReader in(writer.bytes());
  in.get<JobNumber>();
  in.get<SessionNumber>();
  auto first = next_record(in);
  ASSERT_TRUE(first);
  SessionHead old_session, second_session, new_session;
  const std::string newest = all_of(first->body);
  const std::string all = newest.substr(0, newest.size() - 3 * sizeof(int64_t));  // of version 4
  ByteReader fourth_version(all);
  SessionHead fourth_session;
  EXPECT_TRUE(get_session(fourth_version, fourth_session));
  EXPECT_EQ(fourth_session.tenant, "acme");
  EXPECT_EQ(fourth_session.keep_alive_ms, -1);
  ByteReader old(std::string_view(all).substr(0, all.size() - kTenant - sizeof(uint64_t)));
  ByteReader second_version(std::string_view(all).substr(0, all.size() - kTenant));
  EXPECT_TRUE(get_session(second_version, second_session));
  EXPECT_EQ(second_session.model, 77u);
  EXPECT_EQ(second_session.tenant, "");
  EXPECT_TRUE(get_session(old, old_session));
  EXPECT_TRUE(get_session(first->body, new_session));
  EXPECT_EQ(old_session.home, "w");
  EXPECT_EQ(old_session.model, 0u);
  EXPECT_EQ(new_session.model, 77u);
  EXPECT_EQ(new_session.tenant, "acme");
  EXPECT_EQ(new_session.keep_alive_ms, 5);
  EXPECT_EQ(new_session.max_tokens, 6);
  EXPECT_EQ(new_session.used_at, 7);
  auto second = next_record(in);
  ASSERT_TRUE(second);
  const std::string job_bytes = all_of(second->body);
  JobHead old_job, new_job;
  ByteReader old_body(
      std::string_view(job_bytes).substr(0, job_bytes.size() - kTenant - sizeof(int32_t)));
  EXPECT_TRUE(get_job(old_body, old_job));
  EXPECT_TRUE(get_job(second->body, new_job));
  EXPECT_EQ(old_job.why, "lost");
  EXPECT_EQ(old_job.failures, 0);
  EXPECT_EQ(new_job.failures, 2);
  EXPECT_EQ(new_job.tenant, "acme");
}

}  // namespace
}  // namespace limpet::broker
