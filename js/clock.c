#include "clock.h"

#include <sys/time.h>
#include <time.h>

#include "javascript.h"

bool clock_is_running;

uint64_t clock_monotonic(void)
{
    return clock_is_running ? wasi_clocks_monotonic_clock_now() : 0;
}

// In place of wasi-libc's, which imports preview 1.
int gettimeofday(struct timeval *restrict at, void *restrict zone)
{
    wasi_clocks_wall_clock_datetime_t now = {0};
    if (clock_is_running)
        wasi_clocks_wall_clock_now(&now);
    at->tv_sec = (time_t)now.seconds;
    at->tv_usec = (suseconds_t)(now.nanoseconds / 1000);
    return 0;
}

int clock_gettime(clockid_t clock, struct timespec *at)
{
    uint64_t now = clock_monotonic();
    at->tv_sec = (time_t)(now / 1000000000);
    at->tv_nsec = (long)(now % 1000000000);
    return 0;
}
