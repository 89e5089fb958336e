#include "engine/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>

#include <unistd.h>

namespace limpet::engine {
namespace {

// Writes header and data to a file of this test's own.
std::string write_file(const std::string& header, size_t data_bytes,
                       const std::function<void(std::string&)>& damage = {}) {
  std::string bytes(8, '\0');
  const uint64_t n = header.size();
  std::memcpy(bytes.data(), &n, 8);
  bytes += header;
  for (size_t i = 0; i < data_bytes; ++i) bytes += static_cast<char>(i);
  if (damage) damage(bytes);
  const std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
  const auto path = std::filesystem::temp_directory_path() /
                    ("limpet_safetensors_" + name + std::to_string(::getpid()));
  std::ofstream(path, std::ios::binary) << bytes;
  return path.string();
}

std::string error_of(const std::string& path) {
  try {
    SafeTensors::open(path);
  } catch (const std::runtime_error& e) {
    std::filesystem::remove(path);
    return e.what();
  }
  std::filesystem::remove(path);
  return "";
}

// The header is padded so that the data begins at a multiple of 8, as writers do.
std::string padded(std::string header) {
  while (header.size() % 8 != 0) header += ' ';
  return header;
}

const std::string kGood = padded(
    R"({"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
    R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]},"__metadata__":{"x":"y"}})");

TEST(SafeTensors, ReadsWhatTheHeaderSays) {
  const std::string path = write_file(kGood, 22);
  const SafeTensors file = SafeTensors::open(path);
  ASSERT_EQ(file.tensors().size(), 2u);
  EXPECT_EQ(file.at("a").shape, (std::vector<int64_t>{2, 2}));
  EXPECT_EQ(file.at("b").elements(), 3);
  EXPECT_EQ(file.find("c"), nullptr);
  EXPECT_THROW(file.at("c"), std::runtime_error);
  EXPECT_EQ(to_float(file.at("b")).size(), 3u);
  EXPECT_THROW(to_int(file.at("b")), std::runtime_error);
  std::filesystem::remove(path);
}

TEST(SafeTensors, ConvertsHalfPrecisionExactly) {
  const std::string header = padded(R"({"h":{"dtype":"F16","shape":[5],"data_offsets":[0,10]}})");
  const std::string path = write_file(header, 10, [&](std::string& bytes) {
    const uint16_t halves[] = {0x3c00, 0xc000, 0x0001, 0x7bff, 0x3555};
    std::memcpy(bytes.data() + 8 + header.size(), halves, sizeof(halves));
  });
  const SafeTensors file = SafeTensors::open(path);
  const std::vector<float> expected = {1.0f, -2.0f, 0x1p-24f, 65504.0f, 0x1.554p-2f};
  EXPECT_EQ(to_float(file.at("h")), expected);
  std::filesystem::remove(path);
}

TEST(SafeTensors, RefusesWhatDoesNotAddUp) {
  const auto refuse = [](const std::string& header, size_t data, const std::string& because) {
    const std::string error = error_of(write_file(padded(header), data));
    EXPECT_NE(error.find(because), std::string::npos) << error;
  };
  const std::string a = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":)";
  refuse(a + "[0,8]}}", 7, "outside of the file");
  refuse(a + "[0,8]}}", 12, "after the last tensor");
  refuse(a + "[4,12]}}", 12, "hole");
  refuse(a + "[8,0]}}", 8, "outside of the file");
  refuse(a + "[0,4]}}", 4, "does not match");
  refuse(a + "[-1,7]}}", 8, "no valid number");
  refuse(a + "[0]}}", 8, "malformed");
  refuse(R"({"a":{"dtype":"F32","shape":[4611686018427387904,16],"data_offsets":[0,0]}})", 0,
         "overflows");
  refuse(R"({"a":{"dtype":"Q7","shape":[1],"data_offsets":[0,1]}})", 1, "Q7");
  refuse(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
         R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12, "overlaps");
  refuse("[]", 0, "no JSON object");
  refuse("{", 0, "no JSON object");
}

TEST(SafeTensors, NeedsNoAlignment) {
  std::string header = R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                       R"("b":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})";
  for (int i = 0; i < 8; ++i, header += ' ') {
    const std::string path = write_file(header, 9, [&](std::string& bytes) {
      const float values[] = {1.5f, -2.0f};
      std::memcpy(bytes.data() + 8 + header.size() + 1, values, sizeof(values));
    });
    EXPECT_EQ(to_float(SafeTensors::open(path).at("b")), (std::vector<float>{1.5f, -2.0f}));
    std::filesystem::remove(path);
  }
}

TEST(SafeTensors, AHeaderThatWouldTakeFarMoreMemoryIsRefusedOnTheWay) {
  const auto expect_refused = [](const std::string& header, const std::string& because) {
    const std::string error = error_of(write_file(header, 0));
    EXPECT_NE(error.find(because), std::string::npos) << error;
  };
  expect_refused(R"({"a":)" + std::string(1000, '[') + std::string(1000, ']') + "}", "nested");
  std::string many = "{";  // duplicates: a map would hide how many there are
  for (int i = 0; i < (1 << 18) + 1; ++i) many += R"("a":1,)";
  many.back() = '}';
  expect_refused(many, "too many tensors");
  std::string wide = R"({"a":[)";
  for (int i = 0; i < (16 << 18); ++i) wide += "0,";
  wide.back() = ']';
  expect_refused(wide + "}", "too many tensors");
  const std::string path = write_file(kGood, 22, [](std::string& bytes) {
    const uint64_t length = (25u << 20) + 1;
    std::memcpy(bytes.data(), &length, 8);
  });
  std::filesystem::resize_file(path, 26u << 20);  // sparse: zeros
  EXPECT_NE(error_of(path).find("header length"), std::string::npos);
}

TEST(SafeTensors, MessagesHoldNoControlCharacters) {
  const std::string error = error_of(write_file(
      R"({"\u001b[2J":{"dtype":"\u001bQ","shape":[1],"data_offsets":[0,1]}})", 1));
  EXPECT_NE(error.find("'?[2J' has the dtype ?Q,"), std::string::npos) << error;
}

TEST(SafeTensors, RefusesADamagedLength) {
  for (const uint64_t length : {uint64_t{1} << 63, uint64_t{101} << 20, uint64_t{200}}) {
    const std::string path = write_file(kGood, 22, [&](std::string& bytes) {
      std::memcpy(bytes.data(), &length, 8);
    });
    EXPECT_NE(error_of(path).find("header length"), std::string::npos);
  }
  const std::string cut = write_file(kGood, 22, [](std::string& bytes) { bytes.resize(5); });
  EXPECT_NE(error_of(cut).find("shorter"), std::string::npos);
  EXPECT_NE(error_of("/nonexistent/model.safetensors").find("cannot open"), std::string::npos);
}

// Every single-byte damage of a real header is either refused or leaves tensors inside the file.
TEST(SafeTensors, AnyDamagedByteIsBounded) {
  for (size_t at = 0; at < 8 + kGood.size(); ++at) {
    for (const char c : {'\0', '9', '"', '}', '\xff'}) {
      const std::string path = write_file(kGood, 22, [&](std::string& b) { b[at] = c; });
      try {
        const SafeTensors file = SafeTensors::open(path);
        for (const auto& [name, t] : file.tensors()) EXPECT_LE(t.data.size(), 22u);
      } catch (const std::runtime_error& e) {
        EXPECT_NE(std::string(e.what()), "");
      }
      std::filesystem::remove(path);
    }
  }
}

}  // namespace
}  // namespace limpet::engine
