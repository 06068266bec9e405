/* The command line of fastgdml-ipi. */
#ifndef IPI_OPTIONS_H
#define IPI_OPTIONS_H

typedef struct {
    const char *model, *address, *prefix, *energy_unit, *length_unit;   /* units: NULL if not given */
    int use_unix, port, n_threads, any_cell, std;
    double wait;                          /* seconds */
    double max_std;                       /* of a force, in units of the model; infinite: no limit */
} ipi_options;

/* Serve; nothing more, help or version was shown; nothing more, what is wrong was said. */
typedef enum { IPI_RUN, IPI_SHOWN, IPI_MISUSED } ipi_intent;

ipi_intent ipi_parse_options(int argc, char **argv, ipi_options *o);

#endif
