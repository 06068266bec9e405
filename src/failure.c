/* The text of the last failure, one for each thread. */
#include "failure.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Room for the longest path of Linux, and what is wrong with it. */
enum { LENGTH = 8192 };
static _Thread_local char last_error[LENGTH];

fastgdml_status gdml_fail(fastgdml_status status, const char *format, ...)
{
    char text[LENGTH];                                     /* arguments may hold the text of an earlier failure */
    va_list arguments;
    va_start(arguments, format);
    if (vsnprintf(text, sizeof text, format, arguments) >= LENGTH) strcpy(text + LENGTH - 4, "...");
    va_end(arguments);
    strcpy(last_error, text);
    return status;
}

const char *fastgdml_last_error(void)
{
    return last_error;
}
