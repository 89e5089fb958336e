#include "broker/config_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "broker/allow_list.h"
#include "tests/broker/scratch_folder.h"

namespace limpet::broker {
namespace {

class ConfigFile : public testing::Test {
 protected:
  std::string path() const { return scratch_.path() + "/limpet.toml"; }
  BrokerConfig read(const std::string& text) {
    std::ofstream(path()) << text;
    return read_config(path());
  }
  // The one line that says what is wrong, without the folder.
  std::string error(const std::string& text) {
    try {
      read(text);
    } catch (const ConfigError& e) {
      EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
      return std::string(e.what()).substr(scratch_.path().size() + 1);
    }
    return "none";
  }
  ScratchFolder scratch_;
};

TEST_F(ConfigFile, TenantsTakeTheDefaultsThatTheyDoNotChange) {
  const TenantPolicies p = read(R"(
    [tenants."team-a"]
    weight = 2.5
    max_running_jobs = 3
    [tenants.b]
    [tenant-defaults]
    max_queued_jobs = 7
    max_resident_tokens = 100000
  )").tenants;
  EXPECT_EQ(p.standard, (TenantPolicy{1, 7, 0, 100000}));
  EXPECT_EQ(p.named.at("team-a"), (TenantPolicy{2.5, 7, 3, 100000}));
  EXPECT_EQ(p.named.at("b"), p.standard);
}

TEST_F(ConfigFile, AnEmptyFileIsOne) { EXPECT_EQ(read("").tenants, TenantPolicies{}); }

TEST_F(ConfigFile, ErrorsNameTheLine) {
  using testing::HasSubstr, testing::StartsWith;
  EXPECT_THAT(error("\n[tenants.a]\nweigth = 2\n"), StartsWith("limpet.toml:3: 'weigth'"));
  EXPECT_THAT(error("[tenants.a]\nweight = 0\n"), StartsWith("limpet.toml:2: weight"));
  EXPECT_THAT(error("[tenants.a]\nweight = nan\n"), StartsWith("limpet.toml:2: weight"));
  EXPECT_THAT(error("[tenants.a]\nmax_queued_jobs = -1\n"), HasSubstr(":2: max_queued_jobs"));
  EXPECT_THAT(error("[tenants.a]\nmax_queued_jobs = \"x\"\n"), HasSubstr(":2: max_queued_jobs"));
  EXPECT_THAT(error("[other]\n"), StartsWith("limpet.toml:1: 'other'"));
  EXPECT_THAT(error("tenants = 3\n"), StartsWith("limpet.toml:1: 'tenants'"));
  EXPECT_THAT(error("\n\n[tenants.a\n"), StartsWith("limpet.toml:3: "));
  EXPECT_THAT(error("[tenants.a]\nweight = 1\nweight = 2\n"),
              StartsWith("limpet.toml:3: this is not TOML: value (\"weight\") already exists"));
  EXPECT_EQ(error("[retention]\n\n[retention]\n"),
            "limpet.toml:3: this is not TOML: table (\"retention\") already exists");
  EXPECT_EQ(error("[retention]\njobs_s = 01\n"),
            "limpet.toml:2: this is not TOML: bad integer: leading zero");
  EXPECT_THAT(error(std::string(2 << 20, '#')), HasSubstr("1 MiB"));
  EXPECT_THROW(read_config(scratch_.path() + "/absent"), ConfigError);
}

TEST_F(ConfigFile, ATenantIsCalledAsKeysCallOne) {
  const std::string file = "limpet.toml:", why = std::string(": ") + kTenantNames;
  EXPECT_EQ(error("\n[tenants.\"a b/c\"]\nweight = 2\n"), file + "2" + why);
  EXPECT_EQ(error("tenants.\"a/b\".weight = 2\n"), file + "1" + why);
  EXPECT_EQ(read("[tenants.\"A.b_c-9\"]\nweight = 2\n").tenants.named.size(), 1u);
  EXPECT_EQ(read("[tenants.\"\"]\nweight = 2\n").tenants.named.at("").weight, 2);  // keys are off
}

}  // namespace
}  // namespace limpet::broker
