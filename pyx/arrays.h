/* NumPy's arrays as they lie in memory, to look at an argument in nanoseconds: getting its buffer takes a
 * tenth of a microsecond, which is as much as a small step.
 *
 * These fields are part of NumPy's binary interface, the same from 1.7 to all of 2.x: whatever is compiled
 * with its headers relies on them.  This package is not, and one binary is to run on every NumPy; so
 * _kernels.pyx compares them with what an array says of itself before they are used.
 */
#ifndef CLSTM_ARRAYS_H
#define CLSTM_ARRAYS_H

#include <Python.h>

typedef struct {
    PyObject head;
    PyTypeObject *typeobj;
    char kind, type;
    char byteorder; /* '=' for the machine's own, '|' where there is none */
    char former_flags;
    int type_num;
} clstm_descr;

typedef struct {
    PyObject head;
    char *data;
    int nd;
    Py_ssize_t *dimensions, *strides;
    PyObject *base;
    clstm_descr *descr;
    int flags;
} clstm_array;

/* NPY_BOOL, NPY_FLOAT, NPY_DOUBLE; NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED, and NPY_ARRAY_WRITEABLE */
enum { CLSTM_BOOL = 0, CLSTM_FLOAT = 11, CLSTM_DOUBLE = 12 };
enum { CLSTM_LIES_PLAIN = 0x101, CLSTM_WRITEABLE = 0x400 };

/* An object as an array of exactly this class, of numbers of a type in the machine's order, which has these
 * flags; else NULL. */
static inline const clstm_array *clstm_array_of(PyObject *object, const void *array_class, int type_num,
                                                int flags)
{
    const clstm_array *array = (const clstm_array *)object;
    if ((const void *)Py_TYPE(object) != array_class || (array->flags & flags) != flags)
        return NULL;
    if (array->descr->type_num != type_num)
        return NULL;
    return array->descr->byteorder == '=' || array->descr->byteorder == '|' ? array : NULL;
}

#endif
