#include "broker/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>

namespace limpet::broker {
namespace {

Fact fact(Fact::Kind kind, const char* detail) {
  return {kind, "subject", detail, 0.5, true, Residency::resident};
}

std::string a_page() {
  Metrics m;
  m.count(fact(Fact::Kind::job_ended, "finished"));
  m.count(fact(Fact::Kind::dispatched, "none"));
  m.count(fact(Fact::Kind::requeued, "worker_error: the device said something"));
  m.count(fact(Fact::Kind::affinity_break, "worker_lost"));
  m.count(fact(Fact::Kind::rejected, "busy"));
  m.count(fact(Fact::Kind::queue_left, ""));
  m.count(fact(Fact::Kind::first_token, ""));
  m.committed(0.002, 17);
  OutputRow row;
  row.job = JobNumber(1);
  row.ids = {1, 2};
  const Time start{};
  m.follow({JobNumber(1), nullptr, row}, start);
  m.follow({JobNumber(1), nullptr, row}, start + std::chrono::milliseconds(100));
  Core::Gauges g;
  g.queued = 3;
  g.sessions_homed = 4;
  g.workers_ready = 2;
  m.set(g);
  return m.text();
}

TEST(Metrics, CountsWhatHappens) {
  const std::string page = a_page();
  for (const char* line : {
           "limpet_broker_jobs_total{outcome=\"finished\"} 1",
           "limpet_broker_jobs_total{outcome=\"failed\"} 0",
           "limpet_broker_jobs{state=\"queued\"} 3",
           "limpet_broker_dispatches_total{residency=\"resident\"} 1",
           "limpet_broker_affinity_breaks_total{reason=\"worker_lost\"} 1",
           "limpet_broker_sessions{state=\"homed\"} 4",
           "limpet_broker_workers{state=\"ready\"} 2",
           "limpet_broker_redeliveries_total{reason=\"worker_error\"} 1",
           "limpet_broker_commit_seconds_count 1",
           "limpet_broker_commit_entries_sum 17",
           "limpet_broker_queue_seconds_sum 0.5",
           "limpet_broker_first_token_seconds_count{turn=\"later\",residency=\"resident\"} 1",
           "limpet_broker_inter_token_seconds_sum 0.1",
           "limpet_broker_inter_token_seconds_count 2",
           "limpet_broker_rejections_total{code=\"busy\"} 1",
       }) {
    std::string name(line);
    if (name.find("first_token") == std::string::npos) {
      EXPECT_THAT(page, testing::HasSubstr(name + "\n"));
    } else {  // labels come in any order
      EXPECT_THAT(page, testing::AnyOf(
                            testing::HasSubstr(name + "\n"),
                            testing::HasSubstr("limpet_broker_first_token_seconds_count{residency="
                                               "\"resident\",turn=\"later\"} 1\n")));
    }
  }
}

TEST(Metrics, PromtoolFindsNothingToSay) {
  // scripts/get-promtool puts it beside the programs when the system has none.
  const std::string bin = std::filesystem::read_symlink("/proc/self/exe").parent_path().string();
  const std::string command = "PATH=\"" + bin + ":$PATH\" promtool check metrics 2>&1";
  std::FILE* promtool = popen(command.c_str(), "w");
  ASSERT_NE(promtool, nullptr);
  const std::string page = a_page();
  EXPECT_EQ(std::fwrite(page.data(), 1, page.size(), promtool), page.size());
  EXPECT_EQ(pclose(promtool), 0);
}

}  // namespace
}  // namespace limpet::broker
