/*
 * Loaded before a server (LD_PRELOAD): its disk takes its time, or fails, as the file named by SLOW_DISK says while it runs.
 * "delay 200": each sync takes so many milliseconds longer. "fail": the next one ends with EIO; the file is gone then,
 * so whoever takes it away is the only one.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int meddle(void) {
  const char *path = getenv("SLOW_DISK");
  char text[32] = {0};
  int file = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  ssize_t length = read(file, text, sizeof text - 1);
  close(file);
  if (length <= 0) return 0;
  if (strncmp(text, "fail", 4) == 0) return unlink(path) == 0;
  if (strncmp(text, "delay ", 6) == 0) {
    long ms = atol(text + 6);
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) continue;
  }
  return 0;
}

static int sync_with(const char *name, int file) {
  int saved = errno;
  if (meddle()) {
    errno = EIO;
    return -1;
  }
  errno = saved;
  int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
  return real(file);
}

int fsync(int file) { return sync_with("fsync", file); }
int fdatasync(int file) { return sync_with("fdatasync", file); }
