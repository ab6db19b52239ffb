// A command: says its arguments and its environment, then ends with the code that its first argument asks for.
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    for (int at = 1; at < argc; at++)
        printf("argument %s\n", argv[at]);
    const char *greeting = getenv("GREETING");
    fprintf(stderr, "greeting %s\n", greeting ? greeting : "none");
    return argc > 1 ? atoi(argv[1]) : 0;
}
