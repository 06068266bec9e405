/* What depends on the operating system and the processor (system.c): aligned memory, files in memory, forked processes,
 * instruction sets. */
#ifndef GDML_SYSTEM_H
#define GDML_SYSTEM_H

#include "fastgdml.h"

#include <stddef.h>

/* Memory aligned to GDML_ALIGNMENT; NULL when there is none. Freeing NULL does nothing. */
void *gdml_scratch_new(size_t bytes);
void gdml_scratch_free(void *scratch);

/* Where the bytes of an image come from: made here, in aligned memory; a file read, or mapped into memory. */
typedef enum { GDML_BUILT, GDML_READ, GDML_MAPPED } gdml_image_origin;

/* A file in memory, only to be read, and memory of any origin given back. */
fastgdml_status gdml_file_load(const char *path, void **image, size_t *size, gdml_image_origin *origin);
void gdml_image_free(void *image, size_t size, gdml_image_origin origin);

/* Whether this process was forked, and runs the program of its parent. */
int gdml_forked(void);

/* Let other threads have this processor. */
void gdml_yield(void);

/* The highest level of the x86-64 psABI, 1 to 4, that this processor has and the system lets programs use. Of other
 * processors 0. */
int gdml_x86_level(void);

#endif
