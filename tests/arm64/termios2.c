/*
 * What qemu-user 7.2 lacks for serial lines: TCGETS2 and TCSETS2, which the gateway's serial library
 * sets a line by. Preloaded into the emulated program, it has them done by TCGETS and TCSETS, which the
 * emulator knows. The speed is lost: the lines are pseudo-terminals, which have none.
 */
#include <asm/termbits.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* As <asm/ioctls.h> has them; that file and <sys/ioctl.h> can't be had beside <asm/termbits.h>. */
#define TCGETS 0x5401
#define TCSETS 0x5402
#define TCGETS2 0x802c542aUL
#define TCSETS2 0x402c542bUL
#define SPEED 115200

int ioctl(int fd, unsigned long request, ...) {
    va_list more;
    va_start(more, request);
    void *argument = va_arg(more, void *);
    va_end(more);

    struct termios old;
    struct termios2 *new = argument;
    if (request == TCGETS2) {
        long answer = syscall(SYS_ioctl, fd, TCGETS, &old);
        if (answer == 0) {
            memcpy(new, &old, sizeof old);
            new->c_ispeed = new->c_ospeed = SPEED;
        }
        return answer;
    }
    if (request == TCSETS2) {
        memcpy(&old, new, sizeof old);
        old.c_cflag = (old.c_cflag & ~(CBAUD | CIBAUD)) | B115200;
        return syscall(SYS_ioctl, fd, TCSETS, &old);
    }
    return syscall(SYS_ioctl, fd, request, argument);
}
