/* The connection of fastgdml-ipi to its server: messages as a whole over a stream socket. */
#ifndef IPI_SOCKET_H
#define IPI_SOCKET_H

#include <stddef.h>

#if defined(__GNUC__)
#define IPI_PRINTF(text, values) __attribute__((format(printf, text, values)))
#else
#define IPI_PRINTF(text, values)
#endif

typedef enum { IPI_SUCCESS, IPI_CLOSED, IPI_FAILURE } ipi_status;

/* Say on stderr what went wrong, in one line. Returns IPI_FAILURE. */
ipi_status ipi_fail(const char *format, ...) IPI_PRINTF(1, 2);

/* Connect to a UNIX socket, or to a port of a host. Where nothing listens yet, try again for `wait` seconds.
 * Returns a file descriptor, or -1 after it has said why. */
int ipi_connect_unix(const char *path, double wait);
int ipi_connect_tcp(const char *host, int port, double wait);

/* Transfer all of `data`, in however many pieces. IPI_CLOSED: the server has closed the connection (ipi_receive: before
 * the first byte). IPI_FAILURE: it has said why. */
ipi_status ipi_receive(int fd, void *data, size_t n);
ipi_status ipi_send(int fd, const void *data, size_t n);

#endif
