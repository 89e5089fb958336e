// A backend says from the start what it lacks, and what becomes of programs without it.
#include <gtest/gtest.h>

#include "engine/engine.h"
#include "tests/gpu/gpus.h"
#include "tests/gpu/random_models.h"

namespace limpet {
namespace {

class GpuDescription : public ::testing::TestWithParam<std::string> {};

TEST_P(GpuDescription, SaysWhetherTheVendorsProductsAreThere) {
  const auto fused = make_backend(parse_device(GetParam()), {});
  const BackendInfo& info = fused->info();
  const bool told = info.description.find("no vendor's products") != std::string::npos;
  EXPECT_EQ(told, !info.lacks.empty()) << info.description << "; lacks: " << info.lacks;
  EXPECT_TRUE(told || GetParam().starts_with("cuda")) << "HIP has none";
  const auto plain = make_backend(parse_device(GetParam()), {.fused = false});
  EXPECT_TRUE(plain->info().lacks.empty()) << "it would not use them: " << plain->info().lacks;
}

// What is told is what happens: 100 rows are fused where nothing is lacking, and only there.
TEST_P(GpuDescription, ManyRowsAreFusedUnlessItLacksSomething) {
  const test::RandomModel& model = test::kRandomModels[0];
  engine::EngineOptions o;
  o.device = GetParam();
  o.kv_pages = 32;
  const auto e = test::open_random(model, o);
  const engine::SequenceId s = e->kv().create(0);
  const std::vector<Token> tokens(100, 7);
  ASSERT_TRUE(e->kv().reserve(s, std::ssize(tokens)));
  ASSERT_TRUE(e->step({{s, tokens}}).ok());
  EXPECT_EQ(e->counters().compiles, 1);
  EXPECT_EQ(e->counters().fused_programs, e->info().lacks.empty() ? 1 : 0) << e->info().lacks;
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GpuDescription);
INSTANTIATE_TEST_SUITE_P(Gpus, GpuDescription, ::testing::ValuesIn(test::gpus()),
                         [](const auto& info) {
                           return info.param.substr(0, info.param.find(':'));
                         });

}  // namespace
}  // namespace limpet
