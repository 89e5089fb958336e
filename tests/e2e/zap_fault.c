/* Preloaded into limpet-broker by keys_test.py. The thread that checks keys is the only one that
 * polls a single socket: once the file that ZAP_FAULT names is there, its poll fails. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#include <zmq.h>

int zmq_poll(zmq_pollitem_t *items, int n, long timeout) {
  typedef int (*poll_function)(zmq_pollitem_t *, int, long);
  static poll_function next;
  const char *file = getenv("ZAP_FAULT");
  if (n == 1 && file && access(file, F_OK) == 0) {
    errno = ENOTSOCK;
    return -1;
  }
  if (!next) next = (poll_function)dlsym(RTLD_NEXT, "zmq_poll");
  return next(items, n, timeout);
}
