/* Stream sockets for fastgdml-ipi: see socket.h. */
#include "socket.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

ipi_status ipi_fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("fastgdml-ipi: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    return IPI_FAILURE;
}

/* ---- connecting ------------------------------------------------------------------------------------------------- */

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Wait for a connection that is on its way. Returns 0 or the reason why there is none: ETIMEDOUT after `last`. */
static int wait_for(int fd, double last)
{
    for (;;) {
        const double left = last - now();
        struct pollfd writable = {.fd = fd, .events = POLLOUT};
        const int n = poll(&writable, 1, left > 0 ? (int)fmin(1e3 * left + 1, 1e9) : 0);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno;
        if (n == 0 && left > 0) continue;
        if (n == 0) return ETIMEDOUT;
        int reason = 0;
        socklen_t size = sizeof reason;
        return getsockopt(fd, SOL_SOCKET, SO_ERROR, &reason, &size) ? errno : reason;
    }
}

/* Connect, until `last` at most: a firewall that drops packets, or a server that is too busy to accept, would keep a
 * blocking connect() for minutes. */
static int connect_to(const struct addrinfo *address, double last)
{
    const int fd = socket(address->ai_family, address->ai_socktype, address->ai_protocol);
    if (fd < 0) return fd;
    const int flags = fcntl(fd, F_GETFL);
    int reason = fcntl(fd, F_SETFL, flags | O_NONBLOCK) ? errno : 0;
    if (!reason && connect(fd, address->ai_addr, address->ai_addrlen))
        reason = errno == EINPROGRESS || errno == EINTR ? wait_for(fd, last) : errno;
    if (!reason && fcntl(fd, F_SETFL, flags)) reason = errno;
    if (!reason) return fd;
    close(fd);
    errno = reason;
    return -1;
}

/* Clients and server are often started by one script, so the server may need a moment more. */
static int may_come(int reason)
{
    return reason == ECONNREFUSED || reason == ENOENT || reason == EAGAIN || reason == ETIMEDOUT;
}

/* What a connection may take that is on its way, however short the time to wait for the server is. */
static const double least_wait = 0.5;

/* Try a list of addresses until one answers. */
static int connect_to_any(const struct addrinfo *addresses, const char *where, double wait)
{
    const struct timespec pause = {.tv_nsec = 50000000};
    const double last = now() + wait;
    for (;;) {
        int reason = 0, n_left = 0;
        for (const struct addrinfo *address = addresses; address; address = address->ai_next) ++n_left;
        for (const struct addrinfo *address = addresses; address; address = address->ai_next, --n_left) {
            const double start = now();                    /* each address has its share of the time that is left */
            const int fd = connect_to(address, start + fmax((last - start) / n_left, least_wait));
            if (fd >= 0) return fd;
            if (!may_come(reason)) reason = errno;
        }
        if (!may_come(reason) || now() > last) {
            ipi_fail("cannot connect to %s: %s; is the server running, and is this the address in its input?", where,
                     strerror(reason));
            return -1;
        }
        nanosleep(&pause, NULL);
    }
}

int ipi_connect_unix(const char *path, double wait)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof name.sun_path) {
        ipi_fail("the path of a UNIX socket has at most %zu characters, %s has %zu", sizeof name.sun_path - 1, path,
                 strlen(path));
        return -1;
    }
    strcpy(name.sun_path, path);
    const struct addrinfo address = {
        .ai_family = AF_UNIX,
        .ai_socktype = SOCK_STREAM,
        .ai_addr = (struct sockaddr *)&name,
        .ai_addrlen = sizeof name,
    };
    return connect_to_any(&address, path, wait);
}

int ipi_connect_tcp(const char *host, int port, double wait)
{
    char service[16], where[300];
    snprintf(service, sizeof service, "%d", port);
    snprintf(where, sizeof where, "%.255s, port %d", host, port);
    const struct addrinfo wanted = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *addresses;
    const int unknown = getaddrinfo(host, service, &wanted, &addresses);
    if (unknown) {
        ipi_fail("cannot find the host %s: %s", host, gai_strerror(unknown));
        return -1;
    }
    const int fd = connect_to_any(addresses, where, wait);
    freeaddrinfo(addresses);
    /* Messages are short and wait for answers: send them at once. */
    const int on = 1;
    if (fd >= 0) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

/* ---- transfer --------------------------------------------------------------------------------------------------- */

ipi_status ipi_receive(int fd, void *data, size_t n)
{
    for (size_t done = 0; done < n;) {
        const ssize_t part = recv(fd, (char *)data + done, n - done, 0);
        if (part > 0) {
            done += (size_t)part;
        } else if (part == 0 || errno == ECONNRESET) {
            if (done == 0) return IPI_CLOSED;
            return ipi_fail("the server closed the connection after %zu bytes of %zu", done, n);
        } else if (errno != EINTR) {
            return ipi_fail("cannot read from the server: %s", strerror(errno));
        }
    }
    return IPI_SUCCESS;
}

ipi_status ipi_send(int fd, const void *data, size_t n)
{
    for (size_t done = 0; done < n;) {
        const ssize_t part = send(fd, (const char *)data + done, n - done, 0);
        if (part >= 0) {
            done += (size_t)part;
        } else if (errno == EPIPE || errno == ECONNRESET) {
            return IPI_CLOSED;
        } else if (errno != EINTR) {
            return ipi_fail("cannot write to the server: %s", strerror(errno));
        }
    }
    return IPI_SUCCESS;
}
