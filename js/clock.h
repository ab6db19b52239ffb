// Time for the engine and for the module "hearth:host".
#ifndef CLOCK_H
#define CLOCK_H

#include <stdbool.h>
#include <stdint.h>

// There is no time before the snapshot is made: an instance must not find that of the build.
extern bool clock_is_running;

// Nanoseconds since some moment. Never goes back.
uint64_t clock_monotonic(void);

#endif
