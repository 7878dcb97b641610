/* Facts about this build and its element types. */
#include "im2colx.h"

size_t im2colx_itemsize(im2colx_type type)
{
    switch (type) {
    case IM2COLX_F32: case IM2COLX_I32: return 4;
    case IM2COLX_F64: case IM2COLX_I64: case IM2COLX_WIDE64: case IM2COLX_C64: return 8;
    case IM2COLX_C128: return 16;
    case IM2COLX_TYPES: break;
    }
    return 0;
}

const char *im2colx_compiler(void)
{
#if defined(__clang__)
    return "clang " __clang_version__;
#else
    return "gcc " __VERSION__;
#endif
}
