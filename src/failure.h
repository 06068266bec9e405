/* Failures (failure.c): status codes are those of fastgdml.h. */
#ifndef GDML_FAILURE_H
#define GDML_FAILURE_H

#include "fastgdml.h"

#if defined(__GNUC__)
#define GDML_PRINTF(text, values) __attribute__((format(printf, text, values)))
#else
#define GDML_PRINTF(text, values)
#endif

/* Record the text of a failure for this thread and return its code. */
fastgdml_status gdml_fail(fastgdml_status status, const char *format, ...) GDML_PRINTF(2, 3);

#endif
