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
  double connect_s = 5;   // no broker for this long at the start, or give_up_s: an error
  double give_up_s = 60;  // no word of it for this long, busy being one; 0: never
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
  List ask;
  std::vector<std::string> states;  // by name; of jobs or sessions
  std::string since;                // how long ago at most: 90s, 15m, 2h, 7d
  bool failed = false;              // jobs: those that have failed, and why
  bool json = false;
  double watch_s = 0;  // again and again, so far apart, until Ctrl-C; 0: once
};
int list(const ListOptions& options);

// What a release or a retry names.
struct NamedOptions {
  BrokerOptions broker;
  std::string name, tenant;
  bool json = false;
};
int release(const NamedOptions& options);
int retry(const NamedOptions& options);

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
