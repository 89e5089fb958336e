/* Preloaded into a program: its wall clock is as many milliseconds ahead as the file that
 * SHIFTED_CLOCK names says (an int64, mapped: it may change at any time). Monotonic time, and with
 * it every wait, stays as it is: so do the clocks of a machine whose operator sets the date. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

typedef int (*gettime_function)(clockid_t, struct timespec *);

static int64_t nowhere = 0;
static volatile int64_t *shift_ms = &nowhere;
static gettime_function real_gettime;

__attribute__((constructor)) static void begin(void) {
  const char *file = getenv("SHIFTED_CLOCK");
  const int fd = file ? open(file, O_RDONLY | O_CLOEXEC) : -1;
  real_gettime = (gettime_function)dlsym(RTLD_NEXT, "clock_gettime");
  if (fd < 0) return;
  void *page = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
  if (page != MAP_FAILED) shift_ms = page;
  close(fd);
}

int clock_gettime(clockid_t clock, struct timespec *t) {
  if (!real_gettime) real_gettime = (gettime_function)dlsym(RTLD_NEXT, "clock_gettime");
  const int rc = real_gettime(clock, t);
  if (rc == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
    const int64_t ms = *shift_ms;
    t->tv_sec += ms / 1000;
    t->tv_nsec += ms % 1000 * 1000000;
    if (t->tv_nsec >= 1000000000) t->tv_nsec -= 1000000000, ++t->tv_sec;
    if (t->tv_nsec < 0) t->tv_nsec += 1000000000, --t->tv_sec;
  }
  return rc;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone) {
  struct timespec now;
  (void)zone;
  const int rc = clock_gettime(CLOCK_REALTIME, &now);
  if (rc == 0 && t) t->tv_sec = now.tv_sec, t->tv_usec = now.tv_nsec / 1000;
  return rc;
}

time_t time(time_t *out) {
  struct timespec now;
  if (clock_gettime(CLOCK_REALTIME, &now) != 0) return (time_t)-1;
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}
