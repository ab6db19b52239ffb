// A command: says its arguments and its environment, then ends with the code that its first argument asks for, or traps.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
    for (int at = 1; at < argc; at++)
        printf("argument %s\n", argv[at]);
    const char *greeting = getenv("GREETING");
    fprintf(stderr, "greeting %s\n", greeting ? greeting : "none");
    if (argc > 1 && strcmp(argv[1], "trap") == 0)
        __builtin_trap();
    return argc > 1 ? atoi(argv[1]) : 0;
}
