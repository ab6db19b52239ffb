// The engine can print dumps of itself, which nobody asks for. What they pull in of wasi-libc would import preview 1; these
// take its place.
#include <stdint.h>

int32_t __imported_wasi_snapshot_preview1_fd_close(int32_t file)
{
    __builtin_trap();
}

int32_t __imported_wasi_snapshot_preview1_fd_fdstat_get(int32_t file, int32_t stat)
{
    __builtin_trap();
}

int32_t __imported_wasi_snapshot_preview1_fd_seek(int32_t file, int64_t offset, int32_t whence, int32_t at)
{
    __builtin_trap();
}

int32_t __imported_wasi_snapshot_preview1_fd_write(int32_t file, int32_t vectors, int32_t count, int32_t written)
{
    __builtin_trap();
}
