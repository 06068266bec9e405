/* fastgdml-ipi: serves energies, forces and virials of a model to i-PI, and to other programs that speak its protocol
 * (ASE's SocketIOCalculator).
 *
 * The server asks, the client answers. Messages start with a header of 12 characters; numbers are int32 and float64 in
 * the order of bytes of the machine, lengths in Bohr, energies in Hartree.
 *
 *     STATUS    -> NEEDINIT before INIT, HAVEDATA when forces are ready, otherwise READY
 *     INIT      int32 index of the replica, int32 length of a text, the text: settings as "key : value, ...";
 *               the key batch_size announces that many geometries a message
 *     POSDATA   cell [3][3] with the lattice vectors as columns, its inverse [3][3], int32 n_atoms, positions
 *               [n_atoms][3]; of batches: int32 n_atoms, cell and inverse of each geometry, positions of each geometry
 *     GETFORCE  -> FORCEREADY, energies, int32 n_atoms, forces, virials [3][3] = -dE/d(strain), and for each geometry
 *               the int32 length of a text, and the text: with --std standard deviations in JSON, otherwise empty
 *     EXIT
 */
#include "fastgdml.h"
#include "options.h"
#include "socket.h"

#include <ctype.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HEADER_LENGTH = 12, MAX_BATCH = 1 << 16, MAX_TEXT = 1 << 20 };

/* ---- the model, in units of the server -------------------------------------------------------------------------- */

typedef struct {
    fastgdml_model *model;
    int n_atoms, n_threads, socket;
    int is_periodic, check_cell, std, send_std;
    double max_std;                       /* in units of the model */
    double energy, length;                /* Hartree in a unit of energy of the model; its units of length in a Bohr */
    int is_initialised, has_results;
    int64_t n_answers;

    int64_t n_geo;                        /* geometries of a message, for which there is memory */
    double *cells;                        /* [n_geo][2][3][3]  cell, inverse */
    double *positions, *forces;           /* [n_geo][n_atoms][3] */
    double *energies, *virials;           /* [n_geo], [n_geo][3][3] */
    double *energies_std, *forces_std;    /* [n_geo], [n_geo][n_atoms]; if `std` */
    char *reply;
} client;

static ipi_status prepare_units(client *c, const ipi_options *o)
{
    const char *const energy_unit = o->energy_unit ? o->energy_unit : fastgdml_model_energy_unit(c->model);
    const char *const length_unit = o->length_unit ? o->length_unit : fastgdml_model_length_unit(c->model);
    if (fastgdml_energy_factor(energy_unit, "Hartree", &c->energy))
        return ipi_fail("%s; give it with --energy-unit", fastgdml_last_error());
    if (fastgdml_length_factor("Bohr", length_unit, &c->length))
        return ipi_fail("%s; give it with --length-unit", fastgdml_last_error());
    return IPI_SUCCESS;
}

/* Most characters of the standard deviations of a geometry. */
static size_t text_length(const client *c)
{
    return 64 + 24 * ((size_t)c->n_atoms + 1);
}

/* Memory for messages of n_geo geometries. */
static ipi_status resize(client *c, int64_t n_geo)
{
    if (n_geo == c->n_geo) return IPI_SUCCESS;
    free(c->cells);
    free(c->reply);
    const size_t n = (size_t)n_geo, n_coordinates = 3 * (size_t)c->n_atoms * n;
    c->cells = malloc(8 * (18 * n + 2 * n_coordinates + n + 9 * n + n + n_coordinates / 3));
    c->reply = malloc(HEADER_LENGTH + sizeof(int32_t) + 8 * (n + n_coordinates + 9 * n) +
                      (sizeof(int32_t) + (c->send_std ? text_length(c) : 0)) * n);
    c->n_geo = n_geo;
    if (!c->cells || !c->reply)
        return ipi_fail("no memory for %lld geometries of %d atoms", (long long)n_geo, c->n_atoms);
    c->positions = c->cells + 18 * n;
    c->forces = c->positions + n_coordinates;
    c->energies = c->forces + n_coordinates;
    c->virials = c->energies + n;
    c->energies_std = c->virials + 9 * n;
    c->forces_std = c->energies_std + n;
    return IPI_SUCCESS;
}

/* Geometries [first, last), which have one cell. */
static ipi_status predict(client *c, int64_t first, int64_t last)
{
    const size_t n_coordinates = 3 * (size_t)c->n_atoms;
    double lattice[9];
    for (int i = 0; i < 9; ++i) lattice[i] = c->cells[18 * first + i] * c->length;
    if (c->check_cell && fastgdml_model_check_lattice(c->model, lattice))
        return ipi_fail("%s; --any-cell takes the server's cell all the same", fastgdml_last_error());
    double *const r = c->positions + (size_t)first * n_coordinates;
    double *const f = c->forces + (size_t)first * n_coordinates;
    double *const e = c->energies + first, *const virial = c->virials + 9 * first;
    for (size_t i = 0; i < (size_t)(last - first) * n_coordinates; ++i) r[i] *= c->length;
    /* With pbc='true' i-PI wraps molecules into its cell. */
    if (!c->is_periodic && fastgdml_make_whole(c->model, last - first, lattice, r))
        return ipi_fail("%s", fastgdml_last_error());
    double *const f_std = c->forces_std + (size_t)first * (size_t)c->n_atoms;
    const double *const own = c->is_periodic ? lattice : NULL;
    const fastgdml_status failed =
        c->std ? fastgdml_predict_std(c->model, last - first, r, own, e, f, virial, c->energies_std + first, f_std,
                                      c->n_threads)
               : fastgdml_predict(c->model, last - first, r, own, e, f, virial, c->n_threads);
    if (failed) return ipi_fail("%s", fastgdml_last_error());
    for (int64_t i = 0; c->std && i < (last - first) * c->n_atoms; ++i)
        if (f_std[i] > c->max_std)
            return ipi_fail("the standard deviation of the force on atom %lld is %.4g, more than --max-std %.4g: the "
                            "model does not know this geometry",
                            (long long)(i % c->n_atoms) + 1, f_std[i], c->max_std);
    for (size_t i = 0; i < (size_t)(last - first) * n_coordinates; ++i) f[i] *= c->energy * c->length;
    for (int64_t i = 0; i < last - first; ++i) e[i] *= c->energy;
    for (int64_t i = 0; i < 9 * (last - first); ++i) virial[i] *= c->energy;
    return IPI_SUCCESS;
}

static ipi_status predict_all(client *c)
{
    for (int64_t first = 0, last; first < c->n_geo; first = last) {
        const double *const cell = c->cells + 18 * first;
        for (last = first + 1; last < c->n_geo; ++last)    /* replicas usually share a cell */
            if (memcmp(cell, c->cells + 18 * last, 9 * sizeof *cell)) break;
        const ipi_status status = predict(c, first, last);
        if (status) return status;
    }
    return IPI_SUCCESS;
}

/* ---- the protocol ----------------------------------------------------------------------------------------------- */

static void put_header(const char *name, char *header)
{
    memset(header, ' ', HEADER_LENGTH);
    memcpy(header, name, strlen(name));
}

static int is_header(const char *name, const char *header)
{
    char expected[HEADER_LENGTH];
    put_header(name, expected);
    return !memcmp(expected, header, HEADER_LENGTH);
}

/* The rest of a message whose header is there. */
static ipi_status receive_rest(const client *c, void *data, size_t n)
{
    const ipi_status status = ipi_receive(c->socket, data, n);
    return status == IPI_CLOSED ? ipi_fail("the server closed the connection in the middle of a message") : status;
}

static ipi_status answer_status(const client *c)
{
    char header[HEADER_LENGTH];
    put_header(!c->is_initialised ? "NEEDINIT" : c->has_results ? "HAVEDATA" : "READY", header);
    return ipi_send(c->socket, header, sizeof header);
}

/* The value of batch_size in "key : value, ...", or 1. */
static long batch_size_in(char *text)
{
    static const char key[] = "batch_size";
    for (char *rest = text, *setting; (setting = strsep(&rest, ","));) {
        setting += strspn(setting, " ");
        if (strncmp(setting, key, sizeof key - 1)) continue;
        setting += sizeof key - 1;
        setting += strspn(setting, " ");
        if (*setting == ':') return strtol(setting + 1, NULL, 10);
    }
    return 1;
}

static ipi_status read_init(client *c)
{
    int32_t numbers[2];                                    /* index of the replica, length of the text */
    ipi_status status = receive_rest(c, numbers, sizeof numbers);
    if (status) return status;
    if (numbers[1] < 0 || numbers[1] > MAX_TEXT)
        return ipi_fail("the server announces %d characters of settings", (int)numbers[1]);
    char *const text = calloc((size_t)numbers[1] + 1, 1);
    if (!text) return ipi_fail("no memory for %d characters of settings", (int)numbers[1]);
    status = receive_rest(c, text, (size_t)numbers[1]);
    const long n_geo = status ? 0 : batch_size_in(text);
    free(text);
    if (status) return status;
    if (n_geo < 1 || n_geo > MAX_BATCH) return ipi_fail("the server announces batches of %ld geometries", n_geo);
    c->is_initialised = 1;
    c->has_results = 0;
    return resize(c, n_geo);
}

static ipi_status read_positions(client *c)
{
    const size_t n = (size_t)c->n_geo;
    const int is_batch = c->n_geo > 1;
    int32_t n_atoms;
    ipi_status status = is_batch ? IPI_SUCCESS : receive_rest(c, c->cells, 18 * sizeof *c->cells);
    if (!status) status = receive_rest(c, &n_atoms, sizeof n_atoms);
    if (status) return status;
    if (n_atoms != c->n_atoms)
        return ipi_fail("the server has %d atoms, the model %d", (int)n_atoms, c->n_atoms);
    if (is_batch) status = receive_rest(c, c->cells, 18 * n * sizeof *c->cells);
    if (!status) status = receive_rest(c, c->positions, 3 * (size_t)c->n_atoms * n * sizeof *c->positions);
    if (!status) status = predict_all(c);
    c->has_results = !status;
    return status;
}

static char *put(char *at, const void *data, size_t n)
{
    memcpy(at, data, n);
    return at + n;
}

/* Standard deviations of geometry i in JSON; returns the number of characters. */
static int32_t put_std(const client *c, size_t i, char *text)
{
    const double *const f = c->forces_std + i * (size_t)c->n_atoms;
    int n = sprintf(text, "{\"energy_std\": %.9e, \"force_std\": [", c->energies_std[i] * c->energy);
    for (int a = 0; a < c->n_atoms; ++a)
        n += sprintf(text + n, "%s%.9e", a ? ", " : "", f[a] * c->energy * c->length);
    return (int32_t)(n + sprintf(text + n, "]}"));
}

static ipi_status send_forces(client *c)
{
    if (!c->has_results) return ipi_fail("the server asks for forces, but has sent no positions");
    const size_t n = (size_t)c->n_geo;
    const int32_t n_atoms = c->n_atoms;
    put_header("FORCEREADY", c->reply);
    char *at = c->reply + HEADER_LENGTH;
    at = put(at, c->energies, n * sizeof *c->energies);
    at = put(at, &n_atoms, sizeof n_atoms);
    at = put(at, c->forces, 3 * (size_t)c->n_atoms * n * sizeof *c->forces);
    at = put(at, c->virials, 9 * n * sizeof *c->virials);  /* symmetric: row after row or column after column */
    for (size_t i = 0; i < n; ++i) {
        const int32_t length = c->send_std ? put_std(c, i, at + sizeof length) : 0;
        at = put(at, &length, sizeof length) + length;
    }
    const ipi_status status = ipi_send(c->socket, c->reply, (size_t)(at - c->reply));
    if (status == IPI_CLOSED) return ipi_fail("the server closed the connection before it had the forces");
    c->has_results = 0;
    c->n_answers += c->n_geo;
    return status;
}

static ipi_status refuse(const char *header)
{
    char shown[HEADER_LENGTH + 1] = {0};
    for (int i = 0; i < HEADER_LENGTH; ++i) shown[i] = isprint((unsigned char)header[i]) ? header[i] : '?';
    return ipi_fail("the server sent '%s', which is no message of i-PI's protocol", shown);
}

/* Answer until the server is done. */
static ipi_status serve(client *c)
{
    ipi_status status;
    do {
        char header[HEADER_LENGTH];
        status = ipi_receive(c->socket, header, sizeof header);
        if (status) break;
        if (is_header("STATUS", header)) status = answer_status(c);
        else if (is_header("INIT", header)) status = read_init(c);
        else if (is_header("POSDATA", header)) status = read_positions(c);
        else if (is_header("GETFORCE", header)) status = send_forces(c);
        else if (is_header("EXIT", header)) return IPI_SUCCESS;
        else status = refuse(header);
    } while (!status);
    /* Not every server says EXIT. */
    if (status == IPI_CLOSED && c->n_answers) return IPI_SUCCESS;
    return status == IPI_CLOSED ? ipi_fail("the server closed the connection before it asked for forces") : status;
}

static ipi_status run(client *c, const ipi_options *o)
{
    if (fastgdml_model_load(o->model, &c->model)) return ipi_fail("%s", fastgdml_last_error());
    c->n_atoms = fastgdml_model_n_atoms(c->model);
    c->n_threads = o->n_threads;
    c->send_std = o->std;
    c->max_std = o->max_std;
    c->std = o->std || o->max_std < INFINITY;
    if (c->std && !fastgdml_model_n_std(c->model))
        return ipi_fail("%s has no samples for standard deviations: train it with --std 16", o->model);
    ipi_status status = prepare_units(c, o);
    if (!status) status = resize(c, 1);
    if (status) return status;
    c->is_periodic = fastgdml_model_is_periodic(c->model);
    c->check_cell = c->is_periodic && !o->any_cell;
    if (o->use_unix) {
        char path[512];
        snprintf(path, sizeof path, "%s%s", o->prefix, o->address);
        c->socket = ipi_connect_unix(path, o->wait);
    } else {
        c->socket = ipi_connect_tcp(o->address, o->port, o->wait);
    }
    return c->socket < 0 ? IPI_FAILURE : serve(c);
}

int main(int argc, char **argv)
{
    ipi_options o;
    const ipi_intent intent = ipi_parse_options(argc, argv, &o);
    if (intent != IPI_RUN) return intent == IPI_SHOWN ? EXIT_SUCCESS : 2;
    signal(SIGPIPE, SIG_IGN);                              /* a server that is gone is an error of ipi_send */
    client c = {.socket = -1};
    const ipi_status status = run(&c, &o);
    if (c.socket >= 0) close(c.socket);
    free(c.cells);
    free(c.reply);
    fastgdml_model_free(c.model);
    return status ? EXIT_FAILURE : EXIT_SUCCESS;
}
