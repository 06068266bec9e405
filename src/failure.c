/* The text of the last failure, one for each thread. */
#include "failure.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char last_error[512];

fastgdml_status gdml_fail(fastgdml_status status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(last_error, sizeof last_error, format, arguments);
    va_end(arguments);
    return status;
}

const char *fastgdml_last_error(void)
{
    return last_error;
}
