// The `limpet` command, one function per subcommand. Each returns the exit status: 0 success,
// 1 failure, 2 wrong arguments (both told in one line on stderr). main.cpp reads argv and the
// environment, nobody else.
#pragma once
#include <string>
#include <vector>

#include "schema/messages.h"

namespace limpet::client {

struct BrokerOptions {
  std::string endpoint = "tcp://127.0.0.1:5555";
  std::string key, server_public_key;  // both or neither; see client.h
  double connect_s = 5;   // no broker for this long at the start: an error
  double give_up_s = 60;  // nor a word of it for this long later on
};

struct SubmitOptions {
  BrokerOptions broker;
  JobSpec spec;        // job_id empty: one is drawn
  std::string system;  // a system message before the user's
  std::string text;    // "-": standard input
  bool raw = false;    // the text as it is, without the chat template
  bool json = false;
};
int submit(const SubmitOptions& options);

struct AttachOptions {
  BrokerOptions broker;
  std::string job_id;
  int64_t from_index = 0;
  bool json = false;
};
int attach(const AttachOptions& options);
int cancel(const AttachOptions& options);

// Lines from standard input, one job each, in one session.
int chat(const SubmitOptions& options);

struct ListOptions {
  BrokerOptions broker;
  limpet::Listing what = limpet::Listing::jobs;
  uint32_t limit = 1000;
  bool json = false;
};
int list(const ListOptions& options);

struct DrainOptions {
  BrokerOptions broker;
  std::string worker;
  bool wait = true;       // until it has gone
  double timeout_s = 60;  // for that
};
int drain(const DrainOptions& options);

struct BatchOptions {
  BrokerOptions broker;
  std::string in, out;
  int concurrency = 32;
  int32_t max_tokens = 256;  // where a line says none
};
int batch(const BatchOptions& options);

struct KeygenOptions {
  std::string file;  // the secret's; the public key goes to FILE.pub and to standard output
};
int keygen(const KeygenOptions& options);

struct UpOptions {
  std::string bin;  // folder of limpet-broker and limpet-worker
  std::string model;
  std::string device = "cpu";
  std::string data = "limpet-data";
  int workers = 1;
  int port = 5555;   // the first of the ports: clients, workers, HTTP of the broker, of workers
  std::string http;  // of the broker, instead of the third port
  bool restart = false;
  std::vector<std::string> worker_args;  // further arguments of each worker
};
int up(const UpOptions& options);

}  // namespace limpet::client
