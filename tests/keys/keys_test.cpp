#include "keys/keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "keys/endpoint.h"
#include "tests/clients/temporary_folder.h"

namespace limpet::keys {
namespace {

using testing::HasSubstr;

class KeysTest : public testing::Test {
 protected:
  std::string in(const char* name) const { return folder_.file(name); }
  std::string file(const char* name, const std::string& text, mode_t mode = 0600) {
    folder_.write(name, text);
    chmod(in(name).c_str(), mode);
    return in(name);
  }
  template <typename F>
  static std::string error_of(F f) {
    try {
      f();
    } catch (const KeyError& e) {
      return e.what();
    }
    return "";
  }

  test::TemporaryFolder folder_;
};

TEST_F(KeysTest, WhatIsDrawnIsReadBackAndItsSecretIsItsOwners) {
  const KeyPair pair = draw();
  EXPECT_TRUE(is_key(pair.public_key));
  EXPECT_NE(pair.secret_key, draw().secret_key);
  write(in("ada"), pair);
  struct stat s {};
  ASSERT_EQ(stat(in("ada").c_str(), &s), 0);
  EXPECT_EQ(s.st_mode & 0777, 0600u);
  const KeyPair back = read_secret(in("ada"));
  EXPECT_EQ(back.public_key, pair.public_key);
  EXPECT_EQ(back.secret_key, pair.secret_key);
  EXPECT_EQ(read_public(in("ada.pub")), pair.public_key);
  EXPECT_EQ(read_public(pair.public_key), pair.public_key);
  EXPECT_THAT(folder_.read("ada.pub"), testing::Not(HasSubstr(pair.secret_key)));
}

TEST_F(KeysTest, AFileWhosePathLooksLikeAKeyIsAFile) {
  const KeyPair pair = draw();
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder_.path());  // how long its own path is, nobody knows
  const std::string path(40, 'x');
  ASSERT_TRUE(is_key(path));
  write(path, pair);
  EXPECT_EQ(read_public(path), pair.public_key);
  std::filesystem::current_path(before);
}

TEST_F(KeysTest, AKeyIsNeverWrittenOver) {
  write(in("ada"), draw());
  const KeyPair before = read_secret(in("ada"));
  EXPECT_THAT(error_of([&] { write(in("ada"), draw()); }), HasSubstr("is there already"));
  EXPECT_EQ(read_secret(in("ada")).secret_key, before.secret_key);
}

TEST_F(KeysTest, ASecretThatOthersMayReadIsRefused) {
  const KeyPair pair = draw();
  for (const mode_t mode : {0640u, 0604u, 0620u, 0601u, 0777u}) {
    const std::string path = file("open", "secret " + pair.secret_key + "\n", mode);
    EXPECT_THAT(error_of([&] { read_secret(path); }), HasSubstr("chmod 600")) << mode;
  }
  EXPECT_EQ(read_secret(file("closed", "secret " + pair.secret_key, 0400)).public_key,
            pair.public_key);
}

TEST_F(KeysTest, WrongFilesAreToldByNameAndLine) {
  const KeyPair pair = draw(), other = draw();
  EXPECT_THAT(error_of([&] { read_secret(in("none")); }), HasSubstr(in("none")));
  EXPECT_THAT(error_of([&] { read_secret(file("pub", "public " + pair.public_key)); }),
              HasSubstr("holds no secret key"));
  EXPECT_THAT(error_of([&] { read_secret(file("bad", "# a\nsecret 123\n")); }),
              HasSubstr("line 2"));
  EXPECT_THAT(error_of([&] {
                read_secret(file("mix", "public " + other.public_key + "\nsecret " +
                                            pair.secret_key));
              }),
              HasSubstr("does not belong"));
  EXPECT_THAT(error_of([&] { read_secret(file("long", std::string(100000, '#'))); }),
              HasSubstr("too long"));
  EXPECT_FALSE(is_key(pair.public_key.substr(1)));
  EXPECT_FALSE(is_key(std::string(39, 'a') + " "));
  EXPECT_FALSE(is_key(std::string(40, '\0')));
}

TEST_F(KeysTest, AnIdentityIsBothKeysOrNone) {
  write(in("ada"), draw());
  EXPECT_FALSE(identify("", "").on());
  EXPECT_TRUE(identify(in("ada"), draw().public_key).on());
  EXPECT_THAT(error_of([&] { identify(in("ada"), ""); }), HasSubstr("--server-public-key"));
  EXPECT_THAT(error_of([&] { identify("", in("ada.pub")); }), HasSubstr("--key"));
}

TEST(Endpoints, OffLoopbackIsRefusedWithoutKeys) {
  for (const char* fine : {"tcp://127.0.0.1:5555", "tcp://127.9.8.7:*", "tcp://[::1]:5555",
                           "ipc:///run/limpet", "inproc://x"}) {
    EXPECT_EQ(refuse_listening(fine, false), "") << fine;
    EXPECT_EQ(refuse_connecting(fine, false), "") << fine;
  }
  for (const char* far : {"tcp://0.0.0.0:5555", "tcp://*:5555", "tcp://10.0.0.1:5555",
                          "tcp://[::]:5555", "tcp://eth0:5555", "tcp://127.example.org:5555",
                          "tcp://127.0.0.1.example.org:5555", "tcp://localhost.evil.org:5555"}) {
    EXPECT_THAT(refuse_listening(far, false), HasSubstr("keys are required off loopback")) << far;
    EXPECT_THAT(refuse_connecting(far, false), HasSubstr("keys are required off loopback")) << far;
    EXPECT_EQ(refuse_listening(far, true), "") << far;
    EXPECT_EQ(refuse_connecting(far, true), "") << far;
  }
  EXPECT_THAT(refuse_listening("tcp://localhost:5555", true), HasSubstr("write 127.0.0.1"));
  EXPECT_EQ(refuse_connecting("tcp://localhost:5555", false), "");
  EXPECT_THAT(refuse_listening("udp://127.0.0.1:5", true), HasSubstr("not understood"));
}

}  // namespace
}  // namespace limpet::keys
