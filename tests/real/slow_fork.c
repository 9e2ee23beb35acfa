/* Lets a shell wait between its last look for signals and the birth of a command: as long as a busy machine may. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

pid_t fork(void) {
    static pid_t (*next)(void);
    if (!next)
        next = (pid_t (*)(void))dlsym(RTLD_NEXT, "fork");
    if (strcmp(program_invocation_short_name, "bash") == 0) {
        struct timespec left = {0, 60000000};
        while (nanosleep(&left, &left) != 0 && errno == EINTR) {
        }
    }
    return next();
}
