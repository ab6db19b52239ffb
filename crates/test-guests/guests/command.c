// A command: says its arguments and its environment, then ends with the code that its first argument asks for, of
// which WASI 0.2 tells no more than whether it is 0, or worse:
// `trap`, `hoard`, `spin`; or `read FILE`, `write FILE TEXT`.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// A name for backtraces.
__attribute__((noinline)) static void give_up(void)
{
    __builtin_trap();
}

// What is kept where others might look is not optimised away.
static char *volatile hoarded;

static void hoard(void)
{
    for (;;) {
        hoarded = malloc(1 << 20);
        if (!hoarded)
            give_up();
        memset(hoarded, 1, 1 << 20);
    }
}

static int read_file(const char *path)
{
    FILE *file = fopen(path, "r");
    if (!file) {
        perror(path);
        return 2;
    }
    char text[256];
    while (fgets(text, sizeof text, file))
        printf("read %s\n", text);
    return fclose(file) ? 2 : 0;
}

static int write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    if (!file) {
        perror(path);
        return 2;
    }
    return fputs(text, file) < 0 || fclose(file) ? 2 : 0;
}

int main(int argc, char **argv)
{
    for (int at = 1; at < argc; at++)
        printf("argument %s\n", argv[at]);
    const char *greeting = getenv("GREETING");
    fprintf(stderr, "greeting %s\n", greeting ? greeting : "none");
    const char *asked = argc > 1 ? argv[1] : "0";
    if (!strcmp(asked, "trap"))
        give_up();
    if (!strcmp(asked, "hoard"))
        hoard();
    if (!strcmp(asked, "spin"))
        for (;;)
            hoarded = NULL;
    if (!strcmp(asked, "read") && argc > 2)
        return read_file(argv[2]);
    if (!strcmp(asked, "write") && argc > 3)
        return write_file(argv[2], argv[3]);
    return atoi(asked);
}
