/* The command line of fastgdml-ipi: see options.h. */
#include "options.h"
#include "fastgdml.h"
#include "socket.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const char USAGE[] =
    "usage: fastgdml-ipi -m MODEL.fgdml [-a ADDRESS] [-u] [-p PORT] [-n THREADS] [options]\n"
    "\n"
    "Serve a force field to i-PI, or to ASE's SocketIOCalculator, until the server says that it is done.\n"
    "\n"
    "  -m, --model FILE         model file, from 'fastgdml export model.npz model.fgdml'\n"
    "  -a, --address NAME       host of the server, or with -u the name of its UNIX socket (localhost)\n"
    "  -u, --unix               connect to the UNIX socket PREFIX + NAME\n"
    "  -S, --sockets_prefix P   its prefix (/tmp/ipi_)\n"
    "  -p, --port PORT          TCP port (12345)\n"
    "  -n, --threads N          threads to use at most; 0: all (1, because of a bead for each client)\n"
    "  -w, --wait SECONDS       how long to wait for a server that does not listen yet (5)\n"
    "      --energy-unit UNIT   unit of energy of a model that does not record it: eV, kcal/mol, Hartree, ...\n"
    "      --length-unit UNIT   its unit of length: Ang, Bohr, nm\n"
    "      --any-cell           take any cell, not only the one that a periodic model was trained in\n"
    "      --std                send standard deviations with the forces, as i-PI's extras: energy_std, force_std\n"
    "      --max-std X          end where the standard deviation of a force is larger, in units of the model\n"
    "  -h, --help               show this\n"
    "      --version            show the version\n"
    "\n"
    "The atoms of the server must be those of the model, in the order of the training set. Molecules that the server\n"
    "wraps into its cell (pbc='true' in i-PI) are made whole.\n";

static int parse_int(const char *text, int least, int most, int *number)
{
    char *end;
    const long value = strtol(text, &end, 10);
    if (end == text || *end || value < least || value > most) return 0;
    *number = (int)value;
    return 1;
}

static int parse_number(const char *text, double *number)
{
    char *end;
    *number = strtod(text, &end);
    return end != text && !*end && *number >= 0 && isfinite(*number);
}

ipi_intent ipi_parse_options(int argc, char **argv, ipi_options *o)
{
    enum { ENERGY_UNIT = 256, LENGTH_UNIT, ANY_CELL, VERSION, STD, MAX_STD };
    static const struct option known[] = {
        {"model", required_argument, NULL, 'm'},
        {"address", required_argument, NULL, 'a'},
        {"unix", no_argument, NULL, 'u'},
        {"sockets_prefix", required_argument, NULL, 'S'},
        {"port", required_argument, NULL, 'p'},
        {"threads", required_argument, NULL, 'n'},
        {"wait", required_argument, NULL, 'w'},
        {"energy-unit", required_argument, NULL, ENERGY_UNIT},
        {"length-unit", required_argument, NULL, LENGTH_UNIT},
        {"any-cell", no_argument, NULL, ANY_CELL},
        {"std", no_argument, NULL, STD},
        {"max-std", required_argument, NULL, MAX_STD},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, VERSION},
        {NULL, 0, NULL, 0},
    };
    *o = (ipi_options){
        .address = "localhost", .prefix = "/tmp/ipi_", .port = 12345, .n_threads = 1, .wait = 5.0, .max_std = INFINITY};
    const char *wrong = NULL;                              /* what the argument of an option should have been */
    for (int option; !wrong && (option = getopt_long(argc, argv, "m:a:uS:p:n:w:h", known, NULL)) != -1;) {
        switch (option) {
        case 'm': o->model = optarg; break;
        case 'a': o->address = optarg; break;
        case 'u': o->use_unix = 1; break;
        case 'S': o->prefix = optarg; break;
        case 'p': wrong = parse_int(optarg, 1, 65535, &o->port) ? NULL : "a port is a number from 1 to 65535"; break;
        case 'n': wrong = parse_int(optarg, 0, 1024, &o->n_threads) ? NULL : "threads are from 0 to 1024"; break;
        case 'w': wrong = parse_number(optarg, &o->wait) ? NULL : "the time to wait is a number of seconds"; break;
        case ENERGY_UNIT: o->energy_unit = optarg; break;
        case LENGTH_UNIT: o->length_unit = optarg; break;
        case ANY_CELL: o->any_cell = 1; break;
        case STD: o->std = 1; break;
        case MAX_STD: wrong = parse_number(optarg, &o->max_std) ? NULL : "the largest deviation is a number"; break;
        case 'h': fputs(USAGE, stdout); return IPI_SHOWN;
        case VERSION: printf("fastgdml-ipi %s\n", fastgdml_version()); return IPI_SHOWN;
        default: return IPI_MISUSED;                       /* getopt has said why */
        }
    }
    if (wrong)
        ipi_fail("%s, not '%s'", wrong, optarg);
    else if (optind < argc)
        ipi_fail("'%s' belongs to no option; see fastgdml-ipi --help", argv[optind]);
    else if (!o->model)
        ipi_fail("give a model file: -m model.fgdml; see fastgdml-ipi --help");
    else
        return IPI_RUN;
    return IPI_MISUSED;
}
